"""`as_strided` reads memory. In a graph it reads values by their order, since passes lay tensors out in other ways."""

from __future__ import annotations

import operator
from typing import NoReturn

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxcompress.capture.functionalize import aliased_argument
from fxcompress.errors import CaptureError, describe
from fxcompress.ir.fake import insert_call
from fxcompress.ir.signature import argument
from fxcompress.ir.strided_ops import STRIDED

aten = torch.ops.aten


def order_places(graph: fx.Graph) -> None:
    """Let each `as_strided` take values in the order in which they lie in the memory that it reads.

    To be done while every tensor lies as the model lays it out: a graph in the dialect has no `contiguous`.

    Raises:
        CaptureError: no tensor of the graph fills that memory.
    """
    for node in graph.find_nodes(op="call_function", target=aten.as_strided.default):
        view = node.args[0]
        source, order = _filling(view) or _refuse(node)
        offset = argument(node, "storage_offset")
        if offset is None and not isinstance(offset := view.meta["val"].storage_offset(), int):
            _refuse(node)
        if (first := source.meta["val"].storage_offset()) != 0:
            offset = insert_call(node, operator.sub, (offset, first)) if isinstance(offset, fx.Node) else offset - first
        if order != [*range(len(order))]:
            source = insert_call(node, aten.permute.default, (source, order))
        node.target, node.kwargs = STRIDED, {}
        node.args = (source, argument(node, "size"), argument(node, "stride"), offset)


def _filling(node: fx.Node | None) -> tuple[fx.Node, list[int]] | None:
    """The farthest that `node` is a view of, of what fills the memory from its place on, and the order of its dimensions."""
    found, memory = None, None if node is None else node.meta["val"]
    while node is not None and isinstance(held := node.meta["val"], Tensor) and torch._C._is_alias_of(held, memory):
        order = _order_in_memory(held)
        if order is not None and isinstance(held.storage_offset(), int):
            found = node, order
        node = aliased_argument(node)
    return found


def _refuse(node: fx.Node) -> NoReturn:
    raise CaptureError(f"as_strided reads memory that its input does not fill: call .contiguous() in front of {describe(node)}")


def _order_in_memory(held: Tensor) -> list[int] | None:
    """The dimensions of a tensor from the outermost in memory to the innermost; None where it does not fill its memory."""
    left, order, filled = [*range(held.dim())], list[int](), 1
    while left:
        inner = next((d for d in reversed(left) if statically_known_true(held.shape[d] == 1)), None)
        if inner is None:
            inner = next((d for d in reversed(left) if statically_known_true(held.stride(d) == filled)), None)
        if inner is None:
            return None
        left.remove(inner)
        order.insert(0, inner)
        filled *= held.shape[inner]
    return order
