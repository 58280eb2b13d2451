"""Channels that stand out, and their weights divided among copies.

The idea is that of Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting",
arXiv 1901.09504, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxcompress.ir.dialect import IDLE, resolve
from fxcompress.ir.sharing import connected
from fxcompress.ir.signature import argument
from fxcompress.targets.table import ops

LINEAR = resolve("linear")
POINTWISE = ops("relu clamp hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu mish").union(IDLE)

TYPICAL = 0.99
"""The share of a row's weights that are not larger than its typical one."""


def places(copies: Tensor) -> tuple[Tensor, Tensor]:
    """For each place the channel that it has, and the number of the copy, where channel c has ``copies[c]`` places.

    Copies of one, which are all large, are no neighbours where others can stand between (`fxcompress.quantization.pairs`).
    """
    channels = torch.arange(len(copies), device=copies.device).repeat_interleave(copies)
    numbers = torch.arange(len(channels), device=copies.device) - (copies.cumsum(0) - copies)[channels]
    apart = len(copies) // int(copies.max())
    order = ((channels + numbers * apart) % len(copies)).argsort(stable=True)
    return channels[order], numbers[order]


def spread(weight: Tensor, copies: Tensor) -> Tensor:
    """Divide each column of `weight`, [rows, columns], among its `copies`: [rows, sum of the copies], as `places` has them.

    Each row's largest weight becomes as small as it can be; what does not need all copies is put into the first ones, since
    each part of a weight is rounded by itself.
    """
    copies = copies.to(weight.device)
    limit = (weight.abs() / copies).amax(1, keepdim=True)
    channels, numbers = places(copies)
    whole, taken = weight[:, channels], numbers * limit  # by the copies before
    return whole.sign() * torch.minimum((whole.abs() - taken).clamp(min=0), limit)


def prominence(weight: Tensor) -> Tensor:
    """How far each column of `weight` stands out of the rows that it is in: [columns]."""
    typical = _quantile(weight.abs(), TYPICAL)
    return (weight.abs() / typical.clamp(min=torch.finfo(weight.dtype).tiny)).amax(0)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """What `torch.quantile` finds in each row of `rows`, [rows, 1], for a `share` near 1: without sorting all of a row."""
    place = share * (rows.shape[1] - 1)
    largest = rows.topk(rows.shape[1] - math.floor(place), dim=1).values
    return torch.lerp(largest[:, -1:], largest[:, -2:][:, :1], place - math.floor(place))


def copies_of(burden: Tensor, added: int) -> Tensor:
    """How many places each channel gets, so that `added` more make the largest share as small as can be: int64."""
    copies = torch.ones_like(burden, dtype=torch.int64)
    for _ in range(added):
        copies[(burden / copies).argmax()] += 1
    return copies


@dataclass(frozen=True)
class InnerValue:
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
    def altered(self) -> dict[fx.Node, str]:
        """The layers whose constants splitting alters, and along what."""
        return {self.before: "rows"} | dict.fromkeys(self.behind, "columns")

    @property
    def constants(self) -> Iterator[fx.Node]:
        """The weights and biases of the layers."""
        for layer in (self.before, *self.behind):
            yield from (held for held in layer.all_input_nodes if held.op == "get_attr")


def inner_values(graph: fx.Graph) -> list[InnerValue]:
    found = []
    for before in graph.find_nodes(op="call_function", target=LINEAR):
        path = [before]
        while len(path[-1].users) == 1 and _is_pointwise(reader := next(iter(path[-1].users))):
            path.append(reader)
        behind = tuple(path[-1].users)
        if behind and _is_constant(before) and all(_is_linear(reader, path[-1]) for reader in behind):
            found.append(InnerValue(tuple(path), behind))
    return found


def in_chains(values: Collection[InnerValue], groups: Iterable[Sequence[InnerValue]]) -> list[list[InnerValue]]:
    """`values`, in their order, those together that are in one group or share a layer, behind the one, before the other."""
    marks: dict[InnerValue, list[object]] = {inner: [inner.before, *inner.behind] for inner in values}
    for number, group in enumerate(groups):
        for inner in group:
            marks.get(inner, []).append(number)
    return connected(marks)


def _is_pointwise(node: fx.Node) -> bool:
    return node.target in POINTWISE and len(node.all_input_nodes) == 1


def _is_linear(node: fx.Node, value: fx.Node) -> bool:
    return node.target is LINEAR and node.args[0] is value and _is_constant(node)


def _is_constant(linear: fx.Node) -> bool:
    """Whether weight and bias are constants, which only a `get_attr` is."""
    held = [linear.args[1], argument(linear, "bias")]
    return all(constant is None or constant.op == "get_attr" for constant in held)
