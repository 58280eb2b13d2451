"""Repeat the widest channels between two linear layers, and let the copies share what one of them carried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.builder import attribute, insert_call, insert_constant
from fxcompress.channels.removal import propagate
from fxcompress.dialect import resolve
from fxcompress.effect import Effect
from fxcompress.errors import CalibrationError, InputError, describe
from fxcompress.observe import observe
from fxcompress.pipeline import Context, Pass
from fxcompress.precision import Precision
from fxcompress.rewrite import Replacement
from fxcompress.signature import argument
from fxcompress.targets.table import ops

LINEAR, MULTIPLY = map(resolve, ("linear", "mul"))
POINTWISE = ops("relu clamp hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu mish dropout")


@dataclass(frozen=True, kw_only=True)
class SplitChannels(Pass):
    """Repeat the widest channels between two linear layers, and let each of n copies carry an n-th.

    In transformers a few channels inside a feed-forward block are several times wider than the rest, and the range that
    they need leaves the rest few levels. A copy costs a row of the layer before and a column of the layer behind, and
    leaves the weights as large as they were, which `SmoothActivations` does not. Zhao et al., "Improving Neural Network
    Quantization without Retraining using Outlier Channel Splitting", arXiv 1901.09504, section 3.2.

    Split is what one linear layer computes, perhaps through activation functions, and nothing but linear layers reads; the
    weights are constants.

    Args:
        channels: so many are added; 16 keeps rows aligned for vector units.
        gain: where the widest channel would not become this much narrower, none are added.
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
        rewritten = []
        for value, inner in found.items():
            if not widths[value].isfinite().all():
                raise CalibrationError(f"{describe(value)} is NaN or infinite for some of the data; look for an overflow there")
            copies = _copies(widths[value], self.channels)
            if (widths[value] / copies).max() * self.gain <= widths[value].max():
                self._split(graph_module, inner, copies)
                rewritten.append(Replacement.at(value))
        propagate(graph_module.graph)
        return rewritten

    def _split(self, graph_module: fx.GraphModule, inner: _Inner, copies: Tensor) -> None:
        """Give channel c ``copies[c]`` places, and each place its share."""
        places = torch.arange(len(copies)).repeat_interleave(copies)
        for name in ("weight", "bias"):
            constant = argument(inner.before, name)
            if constant is not None:
                self._select(graph_module, inner.before, constant, 0, places)
        value = inner.value
        divided = insert_call(value, inner.behind, MULTIPLY, name=f"{value.name}_split", created_by=self.name)
        share = insert_constant(graph_module, f"{value.name}_share", 1 / copies[places], before=divided, created_by=self.name)
        divided.args = (value, share)
        for layer in inner.behind:
            self._select(graph_module, layer, layer.args[1], 1, places)

    def _select(self, graph_module: fx.GraphModule, layer: fx.Node, constant: fx.Node, axis: int, places: Tensor) -> None:
        """Let `layer` read the `places` of `constant` along `axis`."""
        held = attribute(graph_module, str(constant.target))
        parameter = torch.nn.Parameter(held.detach().index_select(axis, places.to(held.device)))
        name = f"{constant.target}_split"
        layer.replace_input_with(constant, insert_constant(graph_module, name, parameter, before=layer, created_by=self.name))


@dataclass(frozen=True)
class _Inner:
    """The `value` that the linear layer `before` computes, through pointwise functions, for the layers `behind` alone."""

    before: fx.Node
    value: fx.Node
    behind: tuple[fx.Node, ...]


def _inner_values(graph: fx.Graph) -> list[_Inner]:
    found = []
    for before in graph.find_nodes(op="call_function", target=LINEAR):
        value = before
        while len(value.users) == 1 and _is_pointwise(reader := next(iter(value.users))):
            value = reader
        behind = tuple(value.users)
        if behind and _is_constant(before) and all(_is_linear(reader, value) for reader in behind):
            found.append(_Inner(before, value, behind))
    return found


def _is_pointwise(node: fx.Node) -> bool:
    return node.target in POINTWISE and len(node.all_input_nodes) == 1


def _is_linear(node: fx.Node, value: fx.Node) -> bool:
    return node.target is LINEAR and node.args[0] is value and _is_constant(node)


def _is_constant(linear: fx.Node) -> bool:
    """Whether weight and bias are constants, which only a `get_attr` is."""
    held = [linear.args[1], argument(linear, "bias")]
    return all(constant is None or constant.op == "get_attr" for constant in held)


def _copies(width: Tensor, added: int) -> Tensor:
    """How many places each channel gets, so that `added` more make the widest share as narrow as can be: int64."""
    copies = torch.ones_like(width, dtype=torch.int64)
    for _ in range(added):
        copies[(width / copies).argmax()] += 1
    return copies
