"""Layers linked by a value whose channels can be scaled: what divides them in one layer, the other can make up for.

Between the two stand only operations that commute with a positive factor a channel: ``f(s * x) = s * f(x)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxcompress.ir.dialect import IDLE, resolve
from fxcompress.ir.edit import attribute
from fxcompress.ir.sharing import read_once
from fxcompress.ir.signature import argument
from fxcompress.quantization.patches import CONVOLUTIONS, LINEAR
from fxcompress.targets.table import ops

SPATIAL_DIMENSIONS = {convolution: count for count, convolution in enumerate(CONVOLUTIONS, 1)} | {LINEAR: 0}
"""The layers that can be linked, and how many of the last dimensions of what they compute are spatial."""


@dataclass(frozen=True)
class Link:
    """What `first` puts out reaches nothing but `second`, through operations that commute with a factor a channel.

    Channel ``c`` of `first` becomes the consecutive input channels ``c * n`` to ``c * n + n - 1`` of `second`, where n is
    1 unless spatial positions were flattened into channels.
    """

    first: fx.Node
    second: fx.Node


def find_links(graph_module: fx.GraphModule) -> list[Link]:
    """All links of `graph_module`, in the order of the graph.

    Weights and biases are constants, of 32 bits or more; weights are read by one layer alone.
    """
    layers = set(_scalable_layers(graph_module))
    found = []
    for first in graph_module.graph.nodes:
        if first in layers:
            reader, axis = first_reader(first)
            if reader is not None and reader in layers and axis == _channel_axis(reader, reader.args[0]):
                found.append(Link(first, reader))
    return found


def first_reader(layer: fx.Node) -> tuple[fx.Node | None, int]:
    """The first operation behind `layer` that does not commute with factors, and the dimension its channels have there.

    None, where the value is read more than once before that.
    """
    node, axis = layer, _channel_axis(layer, layer)
    while len(node.users) == 1:
        reader = next(iter(node.users))
        moved = COMMUTING[reader.target](reader, axis) if reader.target in COMMUTING else None
        if moved is None:
            return reader, axis
        node, axis = reader, moved
    return None, axis


def _channel_axis(layer: fx.Node, value: fx.Node) -> int:
    """The dimension that counts channels in `value`, which `layer` reads or puts out."""
    return value.meta["val"].dim() - 1 - SPATIAL_DIMENSIONS[layer.target]


def _scalable_layers(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    tensors = {node: attribute(graph_module, node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    alone = read_once(graph_module, tensors)
    for node in graph_module.graph.nodes:
        if node.target in SPATIAL_DIMENSIONS:
            weight, bias = node.args[1], argument(node, "bias")
            if weight not in tensors or not (bias is None or bias in tensors):
                continue
            if weight in alone and tensors[weight].dtype in (torch.float32, torch.float64):
                yield node


# ------------------------------------------------------------------------------------------ operations that commute

# A function of such a call and of the dimension that counts channels in what it reads: which one does in what it puts
# out. None where it mixes channels.
Move = Callable[[fx.Node, int], int | None]


def _pointwise(node: fx.Node, axis: int) -> int | None:
    return axis


def _over_last(count: int) -> Move:
    """Of an operation over the last `count` dimensions."""
    return lambda node, axis: axis if axis < node.meta["val"].dim() - count else None


def _padding(node: fx.Node, axis: int) -> int | None:
    """With zeros, or with the values at hand."""
    padded = len(argument(node, "pad")) // 2
    return None if argument(node, "value") or axis >= node.meta["val"].dim() - padded else axis


def _reduction(node: fx.Node, axis: int) -> int | None:
    gone = [d % node.args[0].meta["val"].dim() for d in argument(node, "dim") or ()]
    if not gone or axis in gone:
        return None
    return axis if argument(node, "keepdim") else axis - sum(d < axis for d in gone)


def _transposition(node: fx.Node, axis: int) -> int | None:
    rank = node.meta["val"].dim()
    first, second = (argument(node, name) % rank for name in ("dim0", "dim1"))
    return {first: second, second: first}.get(axis, axis)


def _permutation(node: fx.Node, axis: int) -> int | None:
    return [d % node.meta["val"].dim() for d in argument(node, "dims")].index(axis)


def _reshape(node: fx.Node, axis: int) -> int | None:
    """The dimension behind as many elements as before that takes in the channels, with what follows them if need be."""
    old, new = node.args[0].meta["val"].shape, node.meta["val"].shape
    for place, size in enumerate(new):
        whole = isinstance(size, int) and isinstance(old[axis], int) and size % old[axis] == 0
        if whole and _same_count(old[:axis], new[:place]):
            return place
    return None


def _same_count(left: Sequence[int | torch.SymInt], right: Sequence[int | torch.SymInt]) -> bool:
    return statically_known_true(math.prod(left) == math.prod(right))


COMMUTING: dict[OpOverload, Move] = {
    **dict.fromkeys(ops("relu leaky_relu prelu").union(IDLE), _pointwise),
    **dict.fromkeys(ops("max_pool1d avg_pool1d adaptive_avg_pool1d"), _over_last(1)),
    **dict.fromkeys(ops("max_pool2d avg_pool2d adaptive_avg_pool2d"), _over_last(2)),
    **dict.fromkeys(ops("max_pool3d avg_pool3d adaptive_avg_pool3d"), _over_last(3)),
    **dict.fromkeys(ops("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d"), _over_last(2)),
    **dict.fromkeys(ops("mean sum amax"), _reduction),
    **dict.fromkeys(ops("flatten reshape unflatten squeeze unsqueeze"), _reshape),
    **dict.fromkeys(ops("constant_pad_nd pad"), _padding),
    resolve("transpose"): _transposition,
    resolve("permute"): _permutation,
}
"""The operations that commute with a positive factor a channel, and where each leaves the channels."""
