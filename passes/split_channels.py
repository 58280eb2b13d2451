"""Repeat the channels between two linear layers that stand out most, and divide their weights among the copies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.channels.removal import propagate
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError
from fxcompress.execution.observe import check_finite, observe
from fxcompress.execution.precision import Precision
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_constant
from fxcompress.ir.signature import argument
from fxcompress.rewrite.rule import Replacement
from fxcompress.targets.table import ops

LINEAR = resolve("linear")
POINTWISE = ops("relu clamp hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu mish dropout")

TYPICAL = 0.99
"""The share of a row's weights that are not larger than its typical one."""


@dataclass(frozen=True, kw_only=True)
class SplitChannels(Pass):
    """Repeat the channels between two linear layers that stand out most, and divide their weights among the copies.

    In a transformer's feed-forward block a few channels are several times wider than the rest, and a few weights that read
    them tens of times larger than all others of their row, which share a scale with them: in MiniLM-L6, one row of each
    block makes two thirds of the noise. A copy costs a row of the layer before and a column of the layer behind. The idea is
    that of Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting", arXiv
    1901.09504, section 3.2; here a row uses no more copies than it needs (see `spread`). `SmoothActivations`, listed behind
    it, narrows the activations at the expense of the weights.

    Split is what one linear layer computes, perhaps through activation functions, and nothing but linear layers reads; the
    weights are constants.

    Args:
        channels: so many are added; 16 keeps rows aligned for vector units.
        gain: where no channel would stand out by this factor less, none are added. A channel stands out by its width times
            its largest weight, as a multiple of a typical one in the same row.
        samples: of the calibration data, at most, to find the channels' widths on; None for all.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
        CalibrationError: an activation is NaN or infinite.
    """

    channels: int = 16
    gain: float = 1.25
    samples: int | None = 64
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.ROUNDING

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise InputError(f"SplitChannels needs channels of 1 or more, got {self.channels!r}")
        if not self.gain >= 1:
            raise InputError(f"SplitChannels needs a gain of 1 or more, got {self.gain!r}")

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        found = {inner.value: inner for inner in _inner_values(graph_module.graph)}
        if not found:
            return []
        widths: dict[fx.Node, Tensor] = {}
        for value, x in observe(graph_module, context, found, samples=self.samples, precision=self.precision):
            width = x.float().abs().flatten(0, -2).amax(0)
            widths[value] = torch.maximum(widths.get(value, width), width)
        rewritten: list[Replacement] = []
        resized: set[fx.Node] = set()
        for value, inner in found.items():
            check_finite(value, widths[value])
            prominence = [_prominence(_tensor(graph_module, layer.args[1])) for layer in inner.behind]
            burden = widths[value] * torch.stack(prominence).amax(0)
            copies = _copies(burden, self.channels)
            if (burden / copies).max() * self.gain <= burden.max():
                self._split(graph_module, inner, copies)
                rewritten.append(Replacement.at(value))
                resized |= {*inner.path, *inner.constants}
        propagate(graph_module.graph, resized)
        return rewritten

    def _split(self, graph_module: fx.GraphModule, inner: _Inner, copies: Tensor) -> None:
        """Give channel c ``copies[c]`` places, in the layer before and in those behind."""
        places = torch.arange(len(copies)).repeat_interleave(copies)
        for name in ("weight", "bias"):
            constant = argument(inner.before, name)
            if constant is not None:
                tensor = _tensor(graph_module, constant)
                self._replace(graph_module, inner.before, constant, tensor[places.to(tensor.device)])
        for layer in inner.behind:
            held = layer.args[1]
            self._replace(graph_module, layer, held, spread(_tensor(graph_module, held), copies))

    def _replace(self, graph_module: fx.GraphModule, layer: fx.Node, held: fx.Node, tensor: Tensor) -> None:
        parameter = torch.nn.Parameter(tensor)
        name = f"{held.target}_split"
        layer.replace_input_with(held, insert_constant(graph_module, name, parameter, before=layer, created_by=self.name))


def spread(weight: Tensor, copies: Tensor) -> Tensor:
    """Divide each column of `weight`, [rows, columns], among its `copies`: [rows, sum of the copies].

    Each row's largest weight becomes as small as it can be; what does not need all copies is put into the first ones, since
    each part of a weight is rounded by itself.
    """
    copies = copies.to(weight.device)
    limit = (weight.abs() / copies).amax(1, keepdim=True)
    first = (copies.cumsum(0) - copies).repeat_interleave(copies)
    taken = (torch.arange(len(first), device=weight.device) - first) * limit  # what the copies before have of each weight
    whole = weight.repeat_interleave(copies, dim=1)
    return whole.sign() * torch.minimum((whole.abs() - taken).clamp(min=0), limit)


@dataclass(frozen=True)
class _Inner:
    """The `value` that the linear layer `before` computes, through pointwise functions, for the layers `behind` alone.

    Attributes:
        path: from `before` to `value`.
    """

    path: tuple[fx.Node, ...]
    behind: tuple[fx.Node, ...]

    @property
    def before(self) -> fx.Node:
        return self.path[0]

    @property
    def value(self) -> fx.Node:
        return self.path[-1]

    @property
    def constants(self) -> Iterator[fx.Node]:
        """The weights and biases of the layers."""
        for layer in (self.before, *self.behind):
            yield from (held for held in layer.all_input_nodes if held.op == "get_attr")


def _inner_values(graph: fx.Graph) -> list[_Inner]:
    found = []
    for before in graph.find_nodes(op="call_function", target=LINEAR):
        path = [before]
        while len(path[-1].users) == 1 and _is_pointwise(reader := next(iter(path[-1].users))):
            path.append(reader)
        behind = tuple(path[-1].users)
        if behind and _is_constant(before) and all(_is_linear(reader, path[-1]) for reader in behind):
            found.append(_Inner(tuple(path), behind))
    return found


def _is_pointwise(node: fx.Node) -> bool:
    return node.target in POINTWISE and len(node.all_input_nodes) == 1


def _is_linear(node: fx.Node, value: fx.Node) -> bool:
    return node.target is LINEAR and node.args[0] is value and _is_constant(node)


def _is_constant(linear: fx.Node) -> bool:
    """Whether weight and bias are constants, which only a `get_attr` is."""
    held = [linear.args[1], argument(linear, "bias")]
    return all(constant is None or constant.op == "get_attr" for constant in held)


def _tensor(graph_module: fx.GraphModule, constant: fx.Node) -> Tensor:
    return attribute(graph_module, str(constant.target)).detach()


def _prominence(weight: Tensor) -> Tensor:
    """How far each column of `weight` stands out of the rows that it is in: [columns]."""
    typical = _quantile(weight.abs(), TYPICAL)
    return (weight.abs() / typical.clamp(min=torch.finfo(weight.dtype).tiny)).amax(0)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """What `torch.quantile` finds in each row of `rows`, [rows, 1], for a `share` near 1: without sorting all of a row."""
    place = share * (rows.shape[1] - 1)
    largest = rows.topk(rows.shape[1] - math.floor(place), dim=1).values
    return torch.lerp(largest[:, -1:], largest[:, -2:][:, :1], place - math.floor(place))


def _copies(burden: Tensor, added: int) -> Tensor:
    """How many places each channel gets, so that `added` more make the largest share as small as can be: int64."""
    copies = torch.ones_like(burden, dtype=torch.int64)
    for _ in range(added):
        copies[(burden / copies).argmax()] += 1
    return copies
