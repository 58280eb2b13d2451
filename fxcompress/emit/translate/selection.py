"""Searching, picking and filling: what torchlib has no translation for, in operations that both runtimes have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import broadcast_shape
from fxcompress.emit.translate.shape import broadcast
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten
_END = 2**63 - 1


@translation(aten.fmax.default, aten.fmin.default)
def extreme_but_nan(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    a, b = emit.promote(x, other)
    both = emit.op("Max" if emit.node.target is aten.fmax.default else "Min", a, b)
    if not emit.dtype(a).is_floating_point:
        return both
    return emit.Where(emit.IsNaN(a), b, emit.Where(emit.IsNaN(b), a, both))


@translation(aten.copysign.Tensor, aten.copysign.Scalar)
def copysign(emit: Emitter, x: ir.Value, sign: Any) -> ir.Value:
    """The size of `x` with the sign of `sign`; a zero counts as positive."""
    dtype = emit.result.dtype
    size = emit.Abs(emit.cast(x, dtype))
    if not isinstance(sign, ir.Value):
        return emit.Neg(size) if sign < 0 else size
    return emit.Where(emit.Less(emit.cast(sign, dtype), 0.0), emit.Neg(size), size)


@translation(aten.hypot.default)
def hypot(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    a, b = emit.promote(x, other)
    return emit.Sqrt(emit.Add(emit.Mul(a, a), emit.Mul(b, b)))


@translation(aten.masked_select.default)
def masked_select(emit: Emitter, x: ir.Value, mask: ir.Value) -> ir.Value:
    shape = broadcast_shape(emit.shape(x), emit.shape(mask))
    flat = [emit.Reshape(broadcast(emit, v, emit.shape(v), shape), [-1]) for v in (x, mask)]
    return emit.Compress(flat[0], flat[1], axis=0)


@translation(aten.isin.Tensor_Tensor)
def isin(emit: Emitter, x: ir.Value, tests: ir.Value, *, assume_unique: bool = False, invert: bool = False) -> ir.Value:
    a, b = emit.promote(x, tests)
    equal = emit.Equal(emit.Unsqueeze(a, [-1]), emit.Reshape(b, [-1]))
    found = emit.cast(emit.ReduceMax(emit.cast(equal, torch.int32), [-1], keepdims=0), torch.bool)
    return emit.Not(found) if invert else found


@translation(aten.searchsorted.Tensor)
def searchsorted(
    emit: Emitter,
    rows: ir.Value,
    x: ir.Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: ir.Value | None = None,
) -> ir.Value:
    """How many numbers of a row lie below `x` (or at it, from the right)."""
    a, b = emit.promote(rows, x)
    if sorter is not None:
        a = emit.GatherElements(a, sorter, axis=-1)
    row = a if emit.rank(rows) == 1 else emit.Unsqueeze(a, [-2])
    below = emit.op("LessOrEqual" if right or side == "right" else "Less", row, emit.Unsqueeze(b, [-1]))
    return emit.ReduceSum(emit.cast(below, emit.result.dtype), [-1], keepdims=0)


@translation(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def index_fill(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, value: Any) -> ir.Value:
    rank = emit.rank(x)
    if rank == 0:
        emit.unsupported("index_fill of a number")
    size = emit.size_scalar(emit.shape(x)[dim])
    places = emit.Range(emit.size_scalar(0), size, emit.size_scalar(1))
    index = emit.Reshape(emit.cast(index, torch.int64), [-1])
    index = emit.Where(emit.Less(index, 0), emit.Add(index, size), index)
    hit = emit.cast(emit.Equal(emit.Unsqueeze(places, [1]), index), torch.int32)
    mask = emit.cast(emit.ReduceMax(hit, [1], keepdims=0), torch.bool)
    mask = emit.Reshape(mask, [-1 if axis == dim % rank else 1 for axis in range(rank)])
    filling = emit.cast(value, emit.dtype(x)) if isinstance(value, ir.Value) else torch.tensor(value, dtype=emit.dtype(x))
    return emit.Where(mask, filling, x)


@translation(aten.index_copy.default)
def index_copy(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, source: ir.Value) -> ir.Value:
    rank = emit.rank(x)
    if rank == 0:
        emit.unsupported("index_copy of a number")
    index = emit.Reshape(emit.cast(index, torch.int64), [-1 if axis == dim % rank else 1 for axis in range(rank)])
    return emit.ScatterElements(x, emit.Expand(index, list(emit.shape(source))), source, axis=dim)


@translation(aten.kthvalue.default)
def kthvalue(emit: Emitter, x: ir.Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
    if emit.rank(x) == 0:
        return x, emit.constant(torch.tensor(0))
    found = emit.TopK(x, [k], outputs=2, axis=dim, largest=0, sorted=1)
    found[1].dtype = ir.DataType.INT64
    values, indices = (emit.Slice(part, [k - 1], [k], [dim]) for part in found)
    return (values, indices) if keepdim else (emit.Squeeze(values, [dim]), emit.Squeeze(indices, [dim]))


@translation(aten.median.dim)
def median(emit: Emitter, x: ir.Value, dim: int, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
    size = 1 if emit.rank(x) == 0 else emit.static(x, dim)[0]
    return kthvalue(emit, x, (size + 1) // 2, dim, keepdim)


@translation(aten.median.default)
def median_of_all(emit: Emitter, x: ir.Value) -> ir.Value:
    if emit.rank(x) == 0:
        return x
    count = 1
    for size in emit.static(x, *range(emit.rank(x))):
        count *= size
    middle = (count + 1) // 2
    values, _ = emit.TopK(emit.Reshape(x, [-1]), [middle], outputs=2, axis=0, largest=0, sorted=1)
    return emit.Squeeze(emit.Slice(values, [middle - 1], [middle], [0]), [0])


@translation(aten.nansum.default)
def nansum(emit: Emitter, x: ir.Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> ir.Value:
    x = emit.cast(x, emit.result.dtype)
    rank = emit.rank(x)
    axes = [dim] if isinstance(dim, int) else list(dim or range(rank))
    kept = emit.Where(emit.IsNaN(x), torch.zeros((), dtype=emit.result.dtype), x) if emit.dtype(x).is_floating_point else x
    return emit.ReduceSum(kept, axes, keepdims=int(keepdim)) if rank else kept


@translation(aten.diag_embed.default)
def diag_embed(emit: Emitter, x: ir.Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> ir.Value:
    """A matrix for each row of `x`, the row on its diagonal: a product with a constant of zeros and ones."""
    if emit.rank(x) == 1:
        return _matrix(emit, x, offset if dim1 % 2 < dim2 % 2 else -offset)
    rank, (count,) = emit.rank(x) + 1, emit.static(x, -1)
    size = count + abs(offset)
    places = torch.diag_embed(torch.eye(count), offset).to(emit.dtype(x))
    flat = emit.MatMul(x, emit.constant(places.reshape(count, size * size)))
    lead = list(emit.shape(x)[:-1])
    square = emit.reshape(flat, [*lead, size * size], [*lead, size, size])
    order = list(range(rank - 2))
    for axis, origin in sorted(((dim1 % rank, rank - 2), (dim2 % rank, rank - 1))):
        order.insert(axis, origin)
    return square if order == sorted(order) else emit.Transpose(square, perm=order)


@translation(aten.diag.default)
def diag(emit: Emitter, x: ir.Value, diagonal: int = 0) -> ir.Value:
    """The matrix of a row; torch's decomposition has the diagonal of a matrix."""
    if emit.rank(x) != 1:
        emit.unsupported("a matrix is written by torch's decomposition")
    return _matrix(emit, x, diagonal)


def _matrix(emit: Emitter, row: ir.Value, offset: int) -> ir.Value:
    """`row`, of a size that may be free, on the diagonal `offset` of a matrix: each column has its number in one place."""
    size = emit.size_scalar(emit.shape(row)[0] + abs(offset))
    if offset:
        row = emit.Pad(row, [max(offset, 0), max(-offset, 0)])
    places = emit.Range(emit.size_scalar(0), size, emit.size_scalar(1))
    hit = emit.Equal(places, emit.Add(emit.Unsqueeze(places, [1]), offset))
    return emit.Where(hit, row, torch.zeros((), dtype=emit.result.dtype))


# Running products and extremes ---------------------------------------------------------------------------------------


@translation(aten.cumprod.default)
def cumprod(emit: Emitter, x: ir.Value, dim: int, *, dtype: Any = None) -> ir.Value:
    x = emit.cast(x, emit.result.dtype)
    return _scanned(emit, [x], emit.fake(x).shape, dim, lambda left, right: [emit.Mul(left[0], right[0])])[0]


@translation(aten.cummax.default, aten.cummin.default)
def running_extreme(emit: Emitter, x: ir.Value, dim: int) -> tuple[ir.Value, ir.Value]:
    shape = emit.fake(x).shape
    if not shape:
        return x, emit.constant(torch.tensor(0))
    at_least = "GreaterOrEqual" if emit.node.target is aten.cummax.default else "LessOrEqual"

    def combined(left: list[ir.Value], right: list[ir.Value]) -> list[ir.Value]:
        later = emit.op(at_least, right[0], left[0])
        return [emit.Where(later, new, old) for old, new in zip(left, right)]

    (size,) = emit.static(x, dim)
    places = torch.arange(size).view([-1 if axis == dim % len(shape) else 1 for axis in range(len(shape))])
    indices = emit.Expand(emit.constant(places), list(shape))
    values, found = _scanned(emit, [x, indices], shape, dim, combined)
    return values, found


Combine = Callable[[list[ir.Value], list[ir.Value]], list[ir.Value]]


def _scanned(emit: Emitter, parts: list[ir.Value], shape: Any, dim: int, combine: Combine) -> list[ir.Value]:
    """All prefixes of `parts` along `dim`, in as many steps as the size has binary digits (Hillis and Steele, 1986)."""
    if not shape:
        return parts
    axis, step = dim % len(shape), 1
    if not isinstance(shape[axis], int):
        emit.unsupported("a running product or extreme along a free size")
    while step < shape[axis]:
        before = [emit.Slice(part, [0], [-step], [axis]) for part in parts]
        after = [emit.Slice(part, [step], [_END], [axis]) for part in parts]
        start = [emit.Slice(part, [0], [step], [axis]) for part in parts]
        parts = [emit.Concat(s, c, axis=axis) for s, c in zip(start, combine(before, after))]
        step *= 2
    return parts


@translation(aten.nonzero.default)
def nonzero(emit: Emitter, x: ir.Value) -> ir.Value:
    """Where a number is not zero is told by rows without an index."""
    if emit.rank(x):
        return emit.Transpose(emit.NonZero(x), perm=[1, 0])
    return emit.Slice(emit.Transpose(emit.NonZero(emit.Reshape(x, [1])), perm=[1, 0]), [0], [0], [1])
