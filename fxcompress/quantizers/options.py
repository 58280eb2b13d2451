"""The options of quantization, for a whole model or a scope of it, and which of them each operation gets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from torch import fx

from fxcompress.errors import InputError
from fxcompress.options import Declared
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import Estimator, EstimatorName, find_estimator
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.report.short_repr import short_repr

Reduction = bool | Literal["pairs"]


@dataclass(frozen=True)
class QuantizerOptions:
    """What a quantizer is made from.

    Attributes:
        spec: the grid; which axis the channels are is the operation's to say.
        estimator: chooses the range; None for min_max on weights, and on activations for the one that `Calibrate` is given.
        per_channel: a scale for each channel, rather than one for all.
    """

    spec: QuantizationSpec
    estimator: Estimator | None
    per_channel: bool = False

    def quantizer(self, shape: Sequence[int] = (), channel_axis: int | None = None) -> Quantizer:
        """A quantizer without a range, of tensors of this shape.

        Where one group takes in the whole input axis, there is one scale a channel: nothing is left for groups to divide,
        and a kernel's places do not each need a scale.
        """
        spec = replace(self.spec, channel_axis=channel_axis if self.per_channel else None)
        if spec.group_size and spec.scale_axis is not None and shape[spec.scale_axis] <= spec.group_size:
            spec = replace(spec, group_size=None)
        return Quantizer(spec, shape, self.estimator)


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions(Declared):
    """How operations are quantized; None inherits from what this is an override of.

    Attributes:
        weights: the grid of their weights. Its channel axis is set operation by operation.
        activations: the grid of the activations that they read.
        weight_estimator: chooses the ranges of weights: a name in `fxcompress.quantization.ranges.ESTIMATORS`, or an
            `Estimator`.
        activation_estimator: likewise, of the activations that they read.
        per_channel: one scale for each output channel of a weight, rather than one for all.
        reduce_range: ``"pairs"``: 8-bit weights take steps that are wide enough for x86 CPUs without VNNI (see
            `QuantizationSpec.pairs`), as does one operand of a product of two activations; True: they take 7 bits instead, and
            that operand wider steps; False: neither.
        embeddings: quantize the tables of embeddings.
        weights_only: leave the activations in float.

    Raises:
        InputError: an option is of the wrong type, names no estimator, or contradicts another.
    """

    weights: QuantizationSpec | None = None
    activations: QuantizationSpec | None = None
    weight_estimator: EstimatorName | Estimator | None = None
    activation_estimator: EstimatorName | Estimator | None = None
    per_channel: bool | None = None
    reduce_range: Reduction | None = None
    embeddings: bool | None = None
    weights_only: bool | None = None

    def __post_init__(self) -> None:
        if self.activations and (self.activations.channel_axis is not None or self.activations.group_size is not None):
            raise InputError("activations have one scale for all: leave out channel_axis and group_size of their grid")
        if self.weights and self.weights.group_size is not None and self.per_channel is False:
            raise InputError("groups divide channels: leave out group_size, or have per_channel=True")

    def __repr__(self) -> str:
        return short_repr(self)

    def over(self, inherited: QuantizationOptions) -> QuantizationOptions:
        """These options, with `inherited` where they say nothing."""
        merged = {f.name: getattr(inherited, f.name) for f in fields(self)}
        return replace(self, **{name: value for name, value in merged.items() if getattr(self, name) is None})

    @property
    def weight(self) -> QuantizerOptions:
        """What the quantizers of weights are made from; their grid must be decided."""
        assert self.weights is not None
        spec = self.weights
        if self.reduce_range and not self.weights_only:
            spec = replace(spec, pairs=True) if self.reduce_range == "pairs" else spec.reduced()
        return QuantizerOptions(spec, _found(self.weight_estimator), per_channel=self.per_channel is not False)

    @property
    def activation(self) -> QuantizerOptions:
        """What the quantizers of activations are made from; their grid must be decided."""
        assert self.activations is not None
        return QuantizerOptions(self.activations, _found(self.activation_estimator))


def _found(estimator: str | Estimator | None) -> Estimator | None:
    return None if estimator is None else find_estimator(estimator)


def by_operation(
    graph: fx.Graph, default: QuantizationOptions, overrides: Iterable[tuple[Collection[fx.Node], QuantizationOptions]]
) -> dict[fx.Node, QuantizationOptions]:
    """The options of every node in `graph`; of two overrides that say something of a node, the later one counts."""
    chosen = dict.fromkeys(graph.nodes, default)
    for nodes, options in overrides:
        for node in nodes:
            chosen[node] = options.over(chosen[node])
    return chosen
