"""Look-ups: gather, scatter and indexing by tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import broadcast_shape, same
from fxcompress.emit.translate.shape import broadcast
from fxcompress.emit.translation import Emitter, translation
from fxcompress.ir.strided_ops import STRIDED

aten = torch.ops.aten


@translation(aten.index_select.default)
def index_select(emit: Emitter, x: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    if emit.rank(x) == 0:  # a number counts as a row of one, and gives a number
        return emit.Squeeze(emit.Gather(emit.Unsqueeze(x, [0]), emit.Reshape(index, [-1])), [0])
    return emit.Gather(x, index, axis=dim)


@translation(aten.take.default)
def take(emit: Emitter, x: ir.Value, index: ir.Value) -> ir.Value:
    return emit.Gather(emit.Reshape(x, [-1]), index, axis=0)


@translation(STRIDED)
def strided(emit: Emitter, x: ir.Value, size: Sequence[Any], stride: Sequence[Any], offset: Any) -> ir.Value:
    places = emit.size_scalar(offset)
    for axis, (count, step) in enumerate(zip(size, stride)):
        along = emit.Range(emit.size_scalar(0), emit.size_scalar(count), emit.size_scalar(1))
        steps = emit.Reshape(emit.Mul(along, emit.size_scalar(step)), [-1 if d == axis else 1 for d in range(len(size))])
        places = emit.Add(steps, places)
    return emit.Gather(emit.Reshape(x, [-1]), places, axis=0)


@translation(aten.gather.default)
def gather(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, sparse_grad: bool = False) -> ir.Value:
    return emit.GatherElements(x, index, axis=dim)


@translation(aten.scatter.src, aten.scatter.value, aten.scatter_add.default)
def scatter(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, src: Any) -> ir.Value:
    reduction = "add" if emit.node.target is aten.scatter_add.default else None
    return _scattered(emit, x, dim, index, src, reduction)


@translation(aten.scatter.reduce, aten.scatter.value_reduce)
def scatter_with(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, src: Any, *, reduce: str) -> ir.Value:
    """The older form, of sums and products."""
    return _scattered(emit, x, dim, index, src, {"add": "add", "multiply": "mul"}[reduce])


def _scattered(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, src: Any, reduction: str | None) -> ir.Value:
    if isinstance(src, ir.Value):
        src = _beginning(emit, src, list(emit.shape(index)))
    else:
        src = emit.Expand(emit.constant(torch.tensor(src, dtype=emit.dtype(x))), list(emit.shape(index)))
    return emit.ScatterElements(x, index, src, axis=dim, reduction=reduction)


def _beginning(emit: Emitter, src: ir.Value, shape: list[Any]) -> ir.Value:
    """What is read of `src`, which may be larger than `shape`, that of the index."""
    if all(map(same, emit.shape(src), shape)):
        return src
    return emit.Slice(src, [0] * len(shape), shape, list(range(len(shape))))


@translation(aten.scatter_reduce.two)
def scatter_reduce(
    emit: Emitter, x: ir.Value, dim: int, index: ir.Value, src: ir.Value, reduce: str, *, include_self: bool = True
) -> ir.Value:
    """The mean is the sum over the count of what came to each place; torchlib writes the sum."""
    if reduce != "mean" or not emit.dtype(x).is_floating_point:
        emit.unsupported("only the mean of floats is written so")
    axis, shape = dim % emit.rank(x), list(emit.shape(index))
    src = _beginning(emit, src, shape)
    zeros, ones = (emit.Expand(emit.constant(torch.tensor(n, dtype=emit.dtype(x))), shape) for n in (0.0, 1.0))
    own = emit.Expand(emit.constant(torch.tensor(1.0, dtype=emit.dtype(x))), list(emit.shape(x)))
    start = x
    if not include_self:
        start, own = (emit.ScatterElements(value, index, zeros, axis=axis) for value in (x, own))
    total = emit.ScatterElements(start, index, src, axis=axis, reduction="add")
    count = emit.ScatterElements(own, index, ones, axis=axis, reduction="add")
    return emit.Div(total, count)


@translation(aten.select_scatter.default)
def select_scatter(emit: Emitter, x: ir.Value, src: ir.Value, dim: int, index: int) -> ir.Value:
    axis = dim % emit.rank(x)
    row = emit.Unsqueeze(src, [axis])
    return _replaced(emit, x, row, axis, index, index + 1 if index != -1 else 2**63 - 1)


@translation(aten.slice_scatter.default)
def slice_scatter(
    emit: Emitter, x: ir.Value, src: ir.Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> ir.Value:
    if step != 1:
        emit.unsupported("slice_scatter with a step other than 1")
    start, end = 0 if start is None else start, 2**63 - 1 if end is None else end
    return _replaced(emit, x, src, dim, start, end)


def _replaced(emit: Emitter, x: ir.Value, part: ir.Value, axis: int, start: Any, end: Any) -> ir.Value:
    """`x` with the stretch from `start` to `end` along `axis` replaced by `part`."""
    part = emit.cast(part, emit.dtype(x))
    before, after = emit.Slice(x, [0], [start], [axis]), emit.Slice(x, [end], [2**63 - 1], [axis])
    whole = isinstance(end, int) and end >= 2**62
    pieces = [*([] if isinstance(start, int) and start == 0 else [before]), part, *([] if whole else [after])]
    return emit.Concat(*pieces, axis=axis) if len(pieces) > 1 else emit.Identity(part)


@translation(aten.one_hot.default)
def one_hot(emit: Emitter, x: ir.Value, num_classes: int = -1) -> ir.Value:
    if num_classes < 0:
        emit.unsupported("one_hot needs num_classes: the number of classes would depend on the data")
    row = x if emit.rank(x) else emit.Unsqueeze(x, [0])
    classes, values = emit.constant(torch.tensor(num_classes)), emit.constant(torch.tensor([0, 1]))
    found = emit.OneHot(row, classes, values, axis=-1)
    return found if emit.rank(x) else emit.Squeeze(found, [0])


@translation(aten.index.Tensor)
def index(emit: Emitter, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    """``x[a, :, b]``: indices broadcast together; their dimensions stay in place when adjacent, else go first."""
    axes = [axis for axis, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if any(emit.dtype(i) in (torch.bool, torch.uint8) for i in given):
        return _by_mask(emit, x, indices)
    if len(axes) == 1:
        return emit.Gather(x, given[0], axis=axes[0])
    rest = [axis for axis in range(emit.rank(x)) if axis not in axes]
    order = axes + rest
    front = x if order == sorted(order) else emit.Transpose(x, perm=order)
    shapes = [emit.shape(i) for i in given]
    common = broadcast_shape(*shapes)
    columns = [
        emit.Unsqueeze(broadcast(emit, emit.cast(i, torch.int64), shape, common), [len(common)])
        for i, shape in zip(given, shapes)
    ]
    picked = emit.GatherND(front, emit.Concat(*columns, axis=-1))
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    lead = axes[0] if adjacent else 0
    if lead == 0:
        return picked
    width = len(common)
    back = [*range(width, width + lead), *range(width), *range(width + lead, width + len(rest))]
    return emit.Transpose(picked, perm=back)


def _by_mask(emit: Emitter, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    emit.unsupported("indexing by a boolean mask gives a shape that depends on the data; use torch.where instead")


@translation(aten.index_add.default)
def index_add(emit: Emitter, x: ir.Value, dim: int, index: ir.Value, source: ir.Value, alpha: Any = 1) -> ir.Value:
    """Slices of `source` are added to those of `x` along `dim` at `index`, of any number."""
    rank = emit.rank(x)
    source = source if alpha == 1 else emit.Mul(source, alpha)
    if rank == 0:
        return emit.Add(x, emit.Reshape(source, emit.sizes([])))
    axis = dim % rank
    order = [axis, *(one for one in range(rank) if one != axis)]
    into, added = (one if axis == 0 else emit.Transpose(one, perm=order) for one in (x, source))
    places = emit.Reshape(emit.cast(index, torch.int64), [-1, 1])
    summed = emit.op("ScatterND", into, places, added, reduction="add")
    return summed if axis == 0 else emit.Transpose(summed, perm=[order.index(one) for one in range(rank)])


@translation(aten.index_put.default)
def index_put(
    emit: Emitter, x: ir.Value, indices: Sequence[ir.Value | None], values: ir.Value, accumulate: bool = False
) -> ir.Value:
    mask = indices[0]
    if len(indices) != 1 or mask is None or accumulate:
        emit.unsupported("index_put other than x[mask] = value")
    if emit.dtype(mask) == torch.bool and emit.rank(values) == 0:
        shape = emit.shape(mask)
        trailing = emit.rank(x) - len(shape)
        if trailing:
            mask = emit.Unsqueeze(mask, [len(shape) + i for i in range(trailing)])
        return emit.Where(mask, values, x)
    return emit.unsupported("index_put other than x[mask] = value")
