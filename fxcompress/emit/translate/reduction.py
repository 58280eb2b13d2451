"""Reductions, softmax, sorting and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import Size
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten
_END = 2**63 - 1

Dims = int | Sequence[int] | None


def _axes(emit: Emitter, x: ir.Value, dim: Dims) -> list[int]:
    """The reduced axes; none named means all, and a number has none."""
    if emit.rank(x) == 0:
        return []
    named = [dim] if isinstance(dim, int) else list(dim or ())
    return named or list(range(emit.rank(x)))


def _reduce(emit: Emitter, op_type: str, x: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    return emit.op(op_type, x, axes, keepdims=int(keepdim)) if axes else x


_REDUCTIONS = {
    "ReduceMean": (aten.mean.dim, aten.mean.default),
    "ReduceSum": (aten.sum.dim_IntList, aten.sum.default),
    "ReduceProd": (aten.prod.dim_int, aten.prod.default),
    "ReduceMax": (aten.amax.default, aten.max.default),
    "ReduceMin": (aten.amin.default, aten.min.default),
    "ReduceLogSumExp": (aten.logsumexp.default,),
}


def _register_reduction(op_type: str, targets: tuple[Any, ...]) -> None:
    @translation(*targets)
    def reduce(emit: Emitter, x: ir.Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> ir.Value:
        axes = _axes(emit, x, dim)
        if emit.result.dtype == torch.bool:
            return emit.cast(_reduce(emit, op_type, emit.cast(x, torch.int32), axes, keepdim), torch.bool)
        return _reduce(emit, op_type, emit.cast(x, emit.result.dtype), axes, keepdim)


for _op_type, _targets in _REDUCTIONS.items():
    _register_reduction(_op_type, _targets)


@translation(aten.any.default, aten.any.dim, aten.any.dims)
def any_true(emit: Emitter, x: ir.Value, dim: Dims = None, keepdim: bool = False) -> ir.Value:
    return _truth_reduced(emit, "ReduceMax", x, dim, keepdim)


@translation(aten.all.default, aten.all.dim, aten.all.dims)
def all_true(emit: Emitter, x: ir.Value, dim: Dims = None, keepdim: bool = False) -> ir.Value:
    return _truth_reduced(emit, "ReduceMin", x, dim, keepdim)


def _truth_reduced(emit: Emitter, op_type: str, x: ir.Value, dim: Dims, keepdim: bool) -> ir.Value:
    truth = emit.cast(emit.cast(x, torch.bool), torch.int32)
    return emit.cast(_reduce(emit, op_type, truth, _axes(emit, x, dim), keepdim), torch.bool)


@translation(aten.max.dim, aten.min.dim)
def extreme_along(emit: Emitter, x: ir.Value, dim: int, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
    kind = "Max" if emit.node.target is aten.max.dim else "Min"
    if emit.rank(x) == 0:
        return x, emit.constant(torch.tensor(0))
    values = emit.op(f"Reduce{kind}", x, [dim], keepdims=int(keepdim))
    return values, emit.op(f"Arg{kind}", x, axis=dim, keepdims=int(keepdim))


@translation(aten.argmax.default, aten.argmin.default)
def argument(emit: Emitter, x: ir.Value, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    op_type = "ArgMax" if emit.node.target is aten.argmax.default else "ArgMin"
    if emit.rank(x) == 0:
        return emit.constant(torch.tensor(0))
    if dim is None:
        flat = emit.op(op_type, emit.Reshape(x, [-1]), axis=0, keepdims=0)
        return emit.Reshape(flat, [1] * emit.rank(x)) if keepdim else flat
    return emit.op(op_type, x, axis=dim, keepdims=int(keepdim))


def _count(emit: Emitter, x: ir.Value, axes: list[int]) -> Size:
    count: Size = 1
    for axis in axes:
        count = count * emit.shape(x)[axis]
    return count


@translation(aten.var.correction, aten.var.dim, aten.var.default)
def var(emit: Emitter, x: ir.Value, dim: Any = None, *args: Any, **kwargs: Any) -> ir.Value:
    return _moments(emit, x, dim, *args, **kwargs)[0]


@translation(aten.std.correction, aten.std.dim, aten.std.default)
def std(emit: Emitter, x: ir.Value, dim: Any = None, *args: Any, **kwargs: Any) -> ir.Value:
    return emit.Sqrt(_moments(emit, x, dim, *args, **kwargs)[0])


@translation(aten.var_mean.correction, aten.var_mean.dim, aten.var_mean.default)
def var_mean(emit: Emitter, x: ir.Value, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[ir.Value, ir.Value]:
    return _moments(emit, x, dim, *args, **kwargs)


@translation(aten.std_mean.correction, aten.std_mean.dim, aten.std_mean.default)
def std_mean(emit: Emitter, x: ir.Value, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[ir.Value, ir.Value]:
    variance, mean = _moments(emit, x, dim, *args, **kwargs)
    return emit.Sqrt(variance), mean


def _moments(
    emit: Emitter, x: ir.Value, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[ir.Value, ir.Value]:
    """Variance and mean; the overloads name their arguments (dim, unbiased, keepdim) or (unbiased) or by keyword."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = _axes(emit, x, dim)
    correction = float(unbiased) if correction is None else correction
    centred = emit.Sub(x, emit.ReduceMean(x, axes, keepdims=1))
    variance = emit.ReduceMean(emit.Mul(centred, centred), axes, keepdims=int(keepdim))
    if correction:
        count = _count(emit, x, axes)
        if isinstance(count, int):
            variance = emit.Mul(variance, count / (count - correction) if count > correction else float("nan"))
        else:
            total = emit.cast(emit.size_scalar(count), emit.dtype(x))
            variance = emit.Mul(variance, emit.Div(total, emit.Sub(total, float(correction))))
    return variance, emit.ReduceMean(x, axes, keepdims=int(keepdim))


@translation(aten.softmax.int, aten._softmax.default)
def softmax(emit: Emitter, x: ir.Value, dim: int, dtype: Any = None) -> ir.Value:
    return emit.Softmax(emit.cast(x, emit.result.dtype), axis=dim)


@translation(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(emit: Emitter, x: ir.Value, dim: int, dtype: Any = None) -> ir.Value:
    return emit.LogSoftmax(emit.cast(x, emit.result.dtype), axis=dim)


@translation(aten.cumsum.default)
def cumsum(emit: Emitter, x: ir.Value, dim: int, dtype: Any = None) -> ir.Value:
    x = emit.cast(x, emit.result.dtype)
    return emit.CumSum(x, emit.constant(torch.tensor(dim))) if emit.rank(x) else x


@translation(aten.diff.default)
def diff(
    emit: Emitter, x: ir.Value, n: int = 1, dim: int = -1, prepend: ir.Value | None = None, append: ir.Value | None = None
) -> ir.Value:
    if n != 1 or emit.dtype(x) == torch.bool:
        emit.unsupported("only the first difference of numbers is written")
    axis = dim % emit.rank(x)
    parts = [part for part in (prepend, x, append) if part is not None]
    whole = emit.Concat(*parts, axis=axis) if len(parts) > 1 else x
    return emit.Sub(emit.Slice(whole, [1], [_END], [axis]), emit.Slice(whole, [0], [-1], [axis]))


@translation(aten.topk.default)
def topk(
    emit: Emitter,
    x: ir.Value,
    k: Any,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[ir.Value, ir.Value]:
    return _top(emit, x, k, dim, largest, sorted)


@translation(aten.sort.default, aten.sort.stable)
def sort(
    emit: Emitter, x: ir.Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> tuple[ir.Value, ir.Value]:
    return _top(emit, x, emit.shape(x)[dim], dim, descending, True)


@translation(aten.argsort.default, aten.argsort.stable)
def argsort(emit: Emitter, x: ir.Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> ir.Value:
    return _top(emit, x, emit.shape(x)[dim], dim, descending, True)[1]


def _top(emit: Emitter, x: ir.Value, k: Any, dim: int, largest: bool, in_order: bool) -> tuple[ir.Value, ir.Value]:
    values, indices = emit.TopK(x, [k], outputs=2, axis=dim, largest=int(largest), sorted=int(in_order))
    indices.dtype = ir.DataType.INT64
    return values, indices


@translation(aten.bucketize.Tensor)
def bucketize(emit: Emitter, x: ir.Value, boundaries: ir.Value, *, out_int32: bool = False, right: bool = False) -> ir.Value:
    """How many boundaries lie below `x` (or at it, if `right`)."""
    a, b = emit.promote(x, boundaries)
    below = emit.op("GreaterOrEqual" if right else "Greater", emit.Unsqueeze(a, [-1]), b)
    return emit.ReduceSum(emit.cast(below, emit.result.dtype), [-1], keepdims=0)
