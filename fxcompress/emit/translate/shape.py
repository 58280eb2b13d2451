"""What moves, joins and cuts tensors without computing on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import Size, expression, same
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten
_END = 2**63 - 1


@translation(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.view_copy.default)
@translation(aten.flatten.using_ints, aten.unflatten.int)
def reshape(emit: Emitter, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return emit.reshape(x, emit.shape(x), emit.result.shape)


@translation(aten.permute.default)
def permute(emit: Emitter, x: ir.Value, dims: Sequence[int]) -> ir.Value:
    return emit.transposed(x, [d % emit.rank(x) for d in dims])


@translation(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
def transpose(emit: Emitter, x: ir.Value, dim0: int, dim1: int) -> ir.Value:
    if emit.rank(x) == 0:
        return x
    order = list(range(emit.rank(x)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return emit.transposed(x, order)


@translation(aten.t.default, aten.numpy_T.default, aten.adjoint.default, aten.mT.default)
def t(emit: Emitter, x: ir.Value) -> ir.Value:
    return x if emit.rank(x) < 2 else transpose(emit, x, -2, -1)


@translation(aten.movedim.int, aten.movedim.intlist)
def movedim(emit: Emitter, x: ir.Value, source: Any, destination: Any) -> ir.Value:
    rank = emit.rank(x)
    sources, targets = ([d] if isinstance(d, int) else list(d) for d in (source, destination))
    placed = {target % rank: origin % rank for origin, target in zip(sources, targets)}
    rest = iter(d for d in range(rank) if d not in placed.values())
    return emit.transposed(x, [placed[d] if d in placed else next(rest) for d in range(rank)])


@translation(aten.unsqueeze.default)
def unsqueeze(emit: Emitter, x: ir.Value, dim: int) -> ir.Value:
    return emit.Unsqueeze(x, [dim])


@translation(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(emit: Emitter, x: ir.Value, dim: int | Sequence[int] | None = None) -> ir.Value:
    shape = emit.shape(x)
    wanted = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = sorted(d % len(shape) for d in wanted if isinstance(shape[d], int) and shape[d] == 1) if shape else []
    return emit.Squeeze(x, axes) if axes else x


@translation(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default, aten.expand_copy.default)
def expand(emit: Emitter, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return broadcast(emit, x, emit.shape(x), emit.result.shape)


def broadcast(emit: Emitter, x: ir.Value, old: Sequence[Size], new: Sequence[Size]) -> ir.Value:
    """`x` of shape `old` expanded to `new`; dimensions that it has already are written 1, which keeps them."""
    lead = len(new) - len(old)
    kept = [i >= lead and not (isinstance(old[i - lead], int) and old[i - lead] == 1) for i in range(len(new))]
    targets = [1 if keep else size for keep, size in zip(kept, new)]
    if all(isinstance(size, int) and size == 1 for size in targets) and lead == 0:
        return x
    return emit.Expand(x, targets)


@translation(aten.repeat.default, aten.tile.default)
def repeat(emit: Emitter, x: ir.Value, repeats: Sequence[Size]) -> ir.Value:
    lead = len(repeats) - emit.rank(x)
    if not repeats and not emit.rank(x):
        return x
    if lead > 0:
        x = emit.Unsqueeze(x, list(range(lead)))
    return emit.Tile(x, [*([1] * -lead), *repeats])


@translation(aten.repeat_interleave.self_int)
def repeat_interleave(
    emit: Emitter, x: ir.Value, repeats: int, dim: int | None = None, output_size: int | None = None
) -> ir.Value:
    rank = emit.rank(x)
    if dim is None:
        tiled = emit.Tile(emit.Unsqueeze(x, [rank]), [*[1] * rank, repeats])
        return emit.Reshape(tiled, [-1])
    axis = dim % rank
    tiled = emit.Tile(emit.Unsqueeze(x, [axis + 1]), [*[1] * (axis + 1), repeats, *[1] * (rank - axis - 1)])
    shape = list(emit.shape(x))
    return emit.reshape(tiled, [*shape[: axis + 1], repeats, *shape[axis + 1 :]], emit.result.shape)


# Joining and cutting -------------------------------------------------------------------------------------------------


@translation(aten.cat.default, aten.concat.default)
def cat(emit: Emitter, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    parts = [t for t in tensors if list(map(expression, emit.shape(t))) != [0]]  # torch ignores empty 1-D tensors
    parts = [t for t in parts if expression(emit.shape(t)[dim]) != 0] or parts[:1]  # OpenVINO takes none of a free batch
    parts = [emit.cast(t, emit.result.dtype) for t in parts]
    return parts[0] if len(parts) == 1 else emit.Concat(*parts, axis=dim)


@translation(aten.stack.default)
def stack(emit: Emitter, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    axis = dim % len(emit.result.shape)
    return emit.Concat(*[emit.Unsqueeze(emit.cast(t, emit.result.dtype), [axis]) for t in tensors], axis=axis)


@translation(aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default)
@translation(aten.split_with_sizes_copy.default, aten.split_copy.Tensor, aten.unsafe_chunk.default)
@translation(aten.tensor_split.sections)
def split(emit: Emitter, x: ir.Value, sizes: Any, dim: int = 0) -> tuple[ir.Value, ...]:
    pieces = emit.result
    if len(pieces) == 1:
        return (x,)
    return emit.Split(x, [piece.shape[dim] for piece in pieces], outputs=len(pieces), axis=dim)


@translation(aten.tensor_split.tensor_indices_or_sections)
def split_at(emit: Emitter, x: ir.Value, where: ir.Value, dim: int = 0) -> tuple[ir.Value, ...]:
    """Split in as many pieces as the constant `where` says, or in front of the indices that it holds."""
    known = emit.data(where)
    if known is None:
        emit.unsupported("the sizes of the pieces would depend on the data")
    if known.dim() == 0:
        return split(emit, x, int(known), dim)
    ends = [*known.tolist(), _END]
    return tuple(emit.Slice(x, [start], [end], [dim]) for start, end in zip([0, *ends], ends))


@translation(aten.resize.default)
def resize(emit: Emitter, x: ir.Value, size: Sequence[Any], **_: Any) -> ir.Value:
    """The first values of `x`, as many as there are in the new shape; more than it has would be of no known value."""
    flat, count = emit.Reshape(x, [-1]), math.prod(size)
    old = math.prod(emit.shape(x))
    if isinstance(old, int) and isinstance(count, int) and count > old:
        emit.refuse("it makes a tensor larger, whose new values are not defined")
    return emit.reshape(emit.Slice(flat, [0], [count], [0]), [count], emit.result.shape)


@translation(aten.unbind.int)
def unbind(emit: Emitter, x: ir.Value, dim: int = 0) -> tuple[ir.Value, ...]:
    return tuple(emit.Gather(x, i, axis=dim) for i in _scalars(emit, len(emit.result)))


def _scalars(emit: Emitter, count: int) -> list[ir.Value]:
    return [emit.constant(torch.tensor(i)) for i in range(count)]


@translation(aten.select.int)
def select(emit: Emitter, x: ir.Value, dim: int, index: Any) -> ir.Value:
    return emit.Gather(x, emit.size_scalar(index), axis=dim)


@translation(aten.slice.Tensor)
def slice_tensor(emit: Emitter, x: ir.Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> ir.Value:
    start = 0 if start is None else start
    end = _END if end is None else end
    size = emit.shape(x)[dim]
    known = isinstance(end, int) and isinstance(size, int)
    whole = (isinstance(end, int) and end >= _END) or (end >= size if known else same(end, size))
    if isinstance(start, int) and start == 0 and whole and step == 1:
        return x
    return emit.Slice(x, [start], [end], [dim], [step])


@translation(aten.narrow.default)
def narrow(emit: Emitter, x: ir.Value, dim: int, start: Any, length: Any) -> ir.Value:
    return emit.Slice(x, [start], [start + length], [dim])


@translation(aten.flip.default)
def flip(emit: Emitter, x: ir.Value, dims: Sequence[int]) -> ir.Value:
    if not dims:
        return x
    count = len(dims)
    return emit.Slice(x, [-1] * count, [-_END] * count, list(dims), [-1] * count)


@translation(aten.roll.default)
def roll(emit: Emitter, x: ir.Value, shifts: int | Sequence[Any], dims: int | Sequence[int] = ()) -> ir.Value:
    shape = emit.shape(x)
    shifts, dims = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    if not dims:
        flat = _rolled(emit, emit.Reshape(x, [-1]), shifts[0], 0)
        return emit.reshape(flat, [-1], shape)
    for shift, dim in zip(shifts, dims):
        size = shape[dim]
        x = _rolled(emit, x, shift % size if isinstance(size, int) and isinstance(shift, int) else shift, dim)
    return x


def _rolled(emit: Emitter, x: ir.Value, shift: Any, dim: int) -> ir.Value:
    if isinstance(shift, int) and shift == 0:
        return x
    tail, head = emit.Slice(x, [-shift], [_END], [dim]), emit.Slice(x, [0], [-shift], [dim])
    return emit.Concat(tail, head, axis=dim)
