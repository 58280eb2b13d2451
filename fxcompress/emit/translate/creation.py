"""Tensors made from nothing: constants where the shape is known, otherwise expanded or counted up at run time."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.types import number

aten = torch.ops.aten
_LARGEST_CONSTANT = 4096  # elements; a larger filled tensor is expanded from one element


def _filled(emit: Emitter, value: Any) -> ir.Value:
    fake = emit.result
    shape = tuple(fake.shape)
    if isinstance(value, ir.Value):
        return emit.Expand(emit.cast(value, fake.dtype), list(shape))
    one = torch.tensor(number(value, fake.dtype), dtype=fake.dtype)
    known = all(isinstance(size, int) for size in shape)
    if known and fake.numel() <= _LARGEST_CONSTANT:
        return emit.constant(one.expand(shape).contiguous())
    return emit.Expand(one, list(shape))


@translation(aten.full.default)
def full(emit: Emitter, size: Any, fill_value: Any, **_: Any) -> ir.Value:
    return _filled(emit, fill_value)


@translation(aten.full_like.default)
def full_like(emit: Emitter, x: ir.Value, fill_value: Any, **_: Any) -> ir.Value:
    return _filled(emit, fill_value)


@translation(aten.fill.Scalar, aten.fill.Tensor)
def fill(emit: Emitter, x: ir.Value, value: Any) -> ir.Value:
    return _filled(emit, value)


@translation(aten.new_full.default)
def new_full(emit: Emitter, x: ir.Value, size: Any, fill_value: Any, **_: Any) -> ir.Value:
    return _filled(emit, fill_value)


@translation(aten.scalar_tensor.default)
def scalar_tensor(emit: Emitter, value: Any, **_: Any) -> ir.Value:
    if isinstance(value, torch.SymInt):
        return emit.cast(emit.size_scalar(value), emit.result.dtype)
    return _filled(emit, value)


@translation(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
@translation(aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.zero.default)
def zeros(emit: Emitter, *_: Any, **__: Any) -> ir.Value:
    return _filled(emit, 0)


@translation(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(emit: Emitter, *_: Any, **__: Any) -> ir.Value:
    return _filled(emit, 1)


@translation(aten.arange.default)
def arange(emit: Emitter, end: Any, **_: Any) -> ir.Value:
    return _counted(emit, 0, end, 1)


@translation(aten.arange.start)
def arange_start(emit: Emitter, start: Any, end: Any, **_: Any) -> ir.Value:
    return _counted(emit, start, end, 1)


@translation(aten.arange.start_step)
def arange_start_step(emit: Emitter, start: Any, end: Any, step: Any = 1, **_: Any) -> ir.Value:
    return _counted(emit, start, end, step)


def _counted(emit: Emitter, start: Any, end: Any, step: Any) -> ir.Value:
    dtype = emit.result.dtype
    bounds = (start, end, step)
    if not any(isinstance(bound, torch.SymInt) for bound in bounds):
        return emit.constant(torch.arange(start, end, step, dtype=dtype))
    if not all(isinstance(bound, int | torch.SymInt) for bound in bounds):
        emit.unsupported("a range of floats with a symbolic bound")
    return emit.cast(emit.Range(*[emit.size_scalar(bound) for bound in bounds]), dtype)


@translation(aten.linspace.default, aten.eye.default, aten.eye.m, aten.tril_indices.default, aten.triu_indices.default)
def evaluated(emit: Emitter, *args: Any, **kwargs: Any) -> ir.Value:
    """Small tensors of known shape, computed once, here."""
    if any(isinstance(a, torch.SymInt | ir.Value) for a in args):
        emit.unsupported("needs constant arguments")
    options = {"dtype": emit.result.dtype}
    return emit.constant(emit.node.target(*args, **options))  # type: ignore[operator]


@translation(aten.linspace.Tensor_Tensor, aten.linspace.Tensor_Scalar, aten.linspace.Scalar_Tensor)
def line(emit: Emitter, start: Any, end: Any, steps: int, **_: Any) -> ir.Value:
    """Numbers at equal distances between ends that are computed."""
    dtype = emit.result.dtype
    if not dtype.is_floating_point:
        emit.unsupported("integers between computed ends")
    share = torch.linspace(0, 1, steps, dtype=dtype)
    parts = [
        emit.Mul(emit.cast(end, dtype), share) if isinstance(end, ir.Value) else end * share
        for end, share in ((start, 1 - share), (end, share))
    ]
    return emit.Add(*parts)


@translation(aten.logspace.Tensor_Tensor, aten.logspace.Tensor_Scalar, aten.logspace.Scalar_Tensor)
def powers(emit: Emitter, start: Any, end: Any, steps: int, base: float = 10.0, **_: Any) -> ir.Value:
    return emit.Pow(torch.tensor(base, dtype=emit.result.dtype), line(emit, start, end, steps))
