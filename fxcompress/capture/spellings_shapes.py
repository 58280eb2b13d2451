"""Rows of the table of spellings: how a tensor is viewed, cut and joined."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.capture.arguments import arrange
from fxcompress.capture.respelling import Call, same_size, same_sizes, size_of, spelling

aten = torch.ops.aten


# --------------------------------------------------------------------------------------------------------- reshape


@spelling(aten.reshape.default, aten.view_as.default, aten.reshape_as.default, aten.unflatten.int)
@spelling(aten.flatten.using_ints)
def _reshape(call: Call) -> fx.Node | None:
    """No reshape at all, the flattening of a run of dimensions, or a reshape that spells its sizes one way."""
    x, old, new = call["self"], size_of(call["self"]), size_of(call.value)
    if same_sizes(old, new):
        return x
    run = _flattened_run(old, new)
    if run:
        return _respelled(call, aten.flatten.using_ints, x, *run)
    sizes = _sizes(call, new)
    return None if sizes is None else _respelled(call, aten.reshape.default, x, sizes)


def _respelled(call: Call, target: OpOverload, *args: Any) -> fx.Node | None:
    """`target` with `args`, unless that is what the call already is."""
    new = call.same(target, *args)
    arrange(new)
    if (new.target, new.args) == (call.node.target, call.node.args):
        new.graph.erase_node(new)
        return None
    return new


def _flattened_run(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[int, int] | None:
    """The first and last dimension of the one run that is merged from shape `old` to `new`, if that is what happens."""
    extent = len(old) - len(new)
    if extent < 1 or not new:
        return None
    start = 0
    while start < len(new) - 1 and same_size(old[start], new[start]):
        start += 1
    rest = same_sizes(old[start + extent + 1 :], new[start + 1 :])
    return (start, start + extent) if rest and start + extent < len(old) else None


def _sizes(call: Call, new: tuple[Any, ...]) -> list[Any] | None:
    """`new` as arguments: numbers, and -1 for the only symbolic size; None where several are symbolic."""
    symbolic = [position for position, size in enumerate(new) if not isinstance(size, int)]
    if len(symbolic) > 1:
        return _mixed_sizes(call, new)
    return [-1 if position in symbolic else size for position, size in enumerate(new)]


def _mixed_sizes(call: Call, new: tuple[Any, ...]) -> list[Any] | None:
    """As given, with every static size a number."""
    given = call["shape"] if call.node.target is aten.reshape.default else None
    if given is None:
        return None
    return [size if isinstance(size, int) else given[position] for position, size in enumerate(new)]


@spelling(aten.broadcast_tensors.default)
def _broadcast_tensors(call: Call) -> fx.Node | None:
    """Each that has the common size already is itself, so that what reads it reads none of the others."""
    for reader in list(call.node.users):
        source = call["tensors"][reader.args[1]]  # type: ignore[index]
        if same_sizes(size_of(source), size_of(reader)):
            reader.replace_all_uses_with(source, propagate_meta=False)
            reader.graph.erase_node(reader)
    return None


@spelling(aten.expand.default, aten.broadcast_to.default, aten.expand_as.default)
def _expand(call: Call) -> fx.Node | None:
    x, old, new = call["self"], size_of(call["self"]), size_of(call.value)
    if same_sizes(old, new):
        return x
    if call.node.target is aten.expand_as.default:
        return None if any(not isinstance(size, int) for size in new) else call.same(aten.expand.default, x, list(new))
    given = call["size"]
    kept = [None] * (len(new) - len(old)) + list(old)
    sizes = [
        -1 if before is not None and same_size(before, after) else after if isinstance(after, int) else argument
        for before, after, argument in zip(kept, new, given)
    ]
    return (
        None if call.node.target is aten.expand.default and sizes == list(given) else call.same(aten.expand.default, x, sizes)
    )


@spelling(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(call: Call) -> fx.Node | None:
    """Only the dimensions that go, in order."""
    size = size_of(call["self"])
    among = range(len(size))
    if call.node.target is not aten.squeeze.default:
        among = sorted(_listed(call["dim"]))  # type: ignore[assignment]
    gone = [d for d in among if same_size(size[d], 1)]
    if not gone:
        return call["self"]
    if call.node.target is aten.squeeze.dims and call["dim"] == gone:
        return None
    return call.same(aten.squeeze.dims, call["self"], gone)


# ------------------------------------------------------------------------------------------- order of the dimensions


@spelling(aten.t.default, aten.mT.default, aten.adjoint.default, aten.numpy_T.default, aten.matrix_H.default)
def _transposed(call: Call) -> fx.Node | None:
    rank = len(size_of(call["self"]))
    if rank < 2:
        return call["self"]
    if call.node.target is aten.numpy_T.default and rank > 2:
        return call.same(aten.permute.default, call["self"], list(reversed(range(rank))))
    if call.value.dtype.is_complex:
        return None
    return call.same(aten.transpose.int, call["self"], rank - 2, rank - 1)


@spelling(aten.transpose.int)
def _transpose(call: Call) -> fx.Node | None:
    first, second = call["dim0"], call["dim1"]
    if first == second:
        return call["self"]
    return call.same(aten.transpose.int, call["self"], second, first) if first > second else None


@spelling(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist)
def _move_dimensions(call: Call) -> fx.Node:
    rank = len(size_of(call["self"]))
    source, destination = ([d % rank for d in _listed(call[name])] for name in ("source", "destination"))
    order = [d for d in range(rank) if d not in source]
    for to, origin in sorted(zip(destination, source)):
        order.insert(to, origin)
    return call.same(aten.permute.default, call["self"], order)


@spelling(aten.permute.default)
def _permute(call: Call) -> fx.Node | None:
    """A permutation that swaps two dimensions is a transpose."""
    moved = [d for d, origin in enumerate(call["dims"]) if d != origin]
    if not moved:
        return call["self"]
    return call.same(aten.transpose.int, call["self"], *moved) if len(moved) == 2 else None


# ------------------------------------------------------------------------------------------------------ cut and join


@spelling(aten.slice.Tensor)
def _slice(call: Call) -> fx.Node | None:
    x, dim, start, end, step = (call[name] for name in ("self", "dim", "start", "end", "step"))
    size = size_of(x)[dim]
    if isinstance(size, int):
        start, end = (max(s + size, 0) if isinstance(s, int) and s < 0 else s for s in (start, end))
    if isinstance(end, int) and (end == sys.maxsize or (isinstance(size, int) and end >= size)):
        end = None
    start = 0 if start is None else start
    if (start, end, step) == (0, None, 1):
        return x
    if (start, end) == (call["start"], call["end"]):
        return None
    return call.same(aten.slice.Tensor, x, dim, start, end, step)


@spelling(aten.slice_scatter.default)
def _slice_scatter(call: Call) -> fx.Node | None:
    """What is written over all of a tensor is what is there afterwards."""
    size, end = size_of(call["self"])[call["dim"]], call["end"]
    reaches = end is None or end == sys.maxsize or (isinstance(size, int) and isinstance(end, int) and end >= size)
    whole = call["start"] in (None, 0) and reaches and call["step"] == 1
    return call.same(aten.alias.default, call["src"]) if whole else None


@spelling(aten.narrow.default)
def _narrow(call: Call) -> fx.Node | None:
    start, length = call["start"], call["length"]
    if not isinstance(start, int) or not isinstance(length, int):
        return None
    return call.same(aten.slice.Tensor, call["self"], call["dim"], start, start + length)


@spelling(aten.select.int)
def _select(call: Call) -> fx.Node | None:
    size, index = size_of(call["self"])[call["dim"]], call["index"]
    if isinstance(size, int) and isinstance(index, int) and index < 0:
        return call.same(aten.select.int, call["self"], call["dim"], index + size)
    return None


@spelling(aten.chunk.default, aten.unsafe_chunk.default)
def _chunk(call: Call) -> fx.Node | None:
    size = size_of(call["self"])[call["dim"]]
    if not isinstance(size, int):
        return None
    return call.same(aten.split.Tensor, call["self"], max(1, math.ceil(size / call["chunks"])), call["dim"])


@spelling(aten.split_with_sizes.default)
def _split_with_sizes(call: Call) -> fx.Node | None:
    """Pieces of one size (the last may be smaller) are a plain split."""
    sizes = call["split_sizes"]
    if not sizes or any(not isinstance(s, int) for s in sizes) or sizes[0] == 0:
        return None
    plain = all(s == sizes[0] for s in sizes[:-1]) and 0 < sizes[-1] <= sizes[0]
    return call.same(aten.split.Tensor, call["self"], sizes[0], call["dim"]) if plain else None


@spelling(aten.tensor_split.sections, aten.tensor_split.indices)
def _tensor_split(call: Call) -> fx.Node | None:
    sizes = [size_of(piece)[call["dim"]] for piece in call.value]
    if any(not isinstance(s, int) for s in sizes):
        return None
    return call.same(aten.split_with_sizes.default, call["self"], sizes, call["dim"])


@spelling(aten.hstack.default, aten.vstack.default, aten.column_stack.default, aten.row_stack.default)
def _stack_by_name(call: Call) -> fx.Node | None:
    ranks = {len(size_of(t)) for t in call["tensors"]}
    if min(ranks) < 2:
        return None
    vertical = call.node.target in (aten.vstack.default, aten.row_stack.default)
    return call.same(aten.cat.default, call["tensors"], 0 if vertical else 1)


@spelling(aten.cat.default)
def _joined(call: Call) -> fx.Node | None:
    """Without the tensors that have no values: what a model was built with none of, such as registers of a transformer."""
    tensors = [one for one in call["tensors"] if not any(isinstance(size, int) and size == 0 for size in size_of(one))]
    kinds = {one.meta["val"].dtype for one in tensors}
    if not tensors or len(tensors) == len(call["tensors"]) or kinds != {call.value.dtype}:
        return None
    return tensors[0] if len(tensors) == 1 else call.same(aten.cat.default, tensors, call["dim"])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
