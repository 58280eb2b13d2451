"""`as_strided` reads memory. In a graph it reads values by their order, since passes lay tensors out in other ways."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxcompress.ir.fake import insert_call
from fxcompress.ir.signature import argument
from fxcompress.ir.strided_ops import STRIDED

aten = torch.ops.aten


def order_places(graph: fx.Graph) -> None:
    """Let each `as_strided` of a tensor that fills its memory take its values in the order in which they lie there.

    To be done while every tensor lies as the model lays it out: a graph in the dialect has no `contiguous`.
    """
    for node in graph.find_nodes(op="call_function", target=aten.as_strided.default):
        source, offset = node.args[0], argument(node, "storage_offset")
        held: Tensor = source.meta["val"]
        order, first = _order_in_memory(held), held.storage_offset()
        if order is None or not isinstance(first, int):
            continue
        if order != [*range(held.dim())]:
            source = insert_call(node, aten.permute.default, (source, order))
        if isinstance(offset, fx.Node):
            offset = insert_call(node, operator.sub, (offset, first))
        elif offset is not None:
            offset -= first
        node.target, node.args, node.kwargs = (
            STRIDED,
            (source, *(argument(node, n) for n in ("size", "stride")), offset or 0),
            {},
        )


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
