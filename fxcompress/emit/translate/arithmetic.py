"""Arithmetic of two operands, in the type that torch promotes them to."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translate.elementwise import trunc
from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.types import number

aten = torch.ops.aten


def _scaled(emit: Emitter, operand: Any, alpha: Any) -> Any:
    if alpha == 1 or not isinstance(operand, ir.Value):
        return operand if alpha == 1 else operand * alpha
    return emit.Mul(operand, number(alpha, emit.dtype(operand)))


@translation(aten.add.Tensor, aten.add.Scalar)
def add(emit: Emitter, x: ir.Value, other: Any, alpha: Any = 1) -> ir.Value:
    a, b = emit.promote(x, other)
    if emit.result.dtype == torch.bool:
        return emit.Or(a, b)
    return emit.Add(a, _scaled(emit, b, alpha))


@translation(aten.sub.Tensor, aten.sub.Scalar)
def sub(emit: Emitter, x: ir.Value, other: Any, alpha: Any = 1) -> ir.Value:
    a, b = emit.promote(x, other)
    return emit.Sub(a, _scaled(emit, b, alpha))


@translation(aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(emit: Emitter, x: ir.Value, other: Any, alpha: Any = 1) -> ir.Value:
    a, b = emit.promote(x, other)
    scaled = _scaled(emit, a, alpha)
    return emit.Neg(scaled) if not isinstance(b, ir.Value) and b == 0 else emit.Sub(as_value(emit, b, a), scaled)


def as_value(emit: Emitter, operand: Any, like: ir.Value) -> ir.Value:
    """A left operand as a value, which an ONNX node needs to know its own type."""
    return operand if isinstance(operand, ir.Value) else emit.constant(torch.tensor(operand, dtype=emit.dtype(like)))


@translation(aten.mul.Tensor, aten.mul.Scalar)
def mul(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    a, b = emit.promote(x, other)
    if emit.result.dtype == torch.bool:
        return emit.And(a, b)
    return emit.Mul(a, b)


@translation(aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor)
def div(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    dtype = emit.result.dtype
    other = emit.cast(other, dtype) if isinstance(other, ir.Value) else number(other, dtype)
    return emit.Div(emit.cast(x, dtype), other)


@translation(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(emit: Emitter, x: ir.Value, other: Any, rounding_mode: str | None = None) -> ir.Value:
    if rounding_mode is None:
        return div(emit, x, other)
    if rounding_mode == "floor":
        return floor_divide(emit, x, other)
    a, b = emit.promote(x, other)
    return trunc(emit, emit.Div(a, b))  # integer division in ONNX truncates already


@translation(aten.floor_divide.default)
def floor_divide(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    a, b = emit.promote(x, other)
    if emit.dtype(a).is_floating_point:
        return emit.Floor(emit.Div(a, b))
    return emit.Div(emit.Sub(a, emit.Mod(a, b)), b)  # ONNX Mod of integers has the divisor's sign


@translation(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    a, b = emit.promote(x, other)
    if emit.dtype(a).is_floating_point:
        return emit.Sub(a, emit.Mul(emit.Floor(emit.Div(a, b)), b))
    return emit.Mod(a, b)


@translation(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    a, b = emit.promote(x, other)
    return emit.Mod(a, b, fmod=1)


@translation(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor)
def pow(emit: Emitter, x: ir.Value, exponent: Any) -> ir.Value:
    a, b = emit.promote(x, exponent)
    if not isinstance(b, ir.Value):
        if b == 2:
            return emit.Mul(a, a)
        if b == 0.5:
            return emit.Sqrt(a)
        if b == -0.5:
            return emit.Reciprocal(emit.Sqrt(a))
    elif not emit.dtype(a).is_floating_point:
        return _power_of_integers(emit, a, b)
    return emit.Pow(a, b)


def _power_of_integers(emit: Emitter, base: ir.Value, exponent: ir.Value) -> ir.Value:
    """As torch has it: to a negative power 1 is 1, -1 is what it is to the positive one, and all else is 0."""
    wide = emit.cast(exponent, torch.int64)
    power = emit.Pow(base, emit.Abs(wide))
    return emit.Where(emit.And(emit.Less(wide, 0), emit.Greater(emit.Abs(base), 1)), 0, power)


@translation(aten.pow.Scalar)
def pow_scalar(emit: Emitter, base: Any, exponent: ir.Value) -> ir.Value:
    a, b = emit.promote(base, exponent)
    if not emit.dtype(b).is_floating_point:
        return _power_of_integers(emit, as_value(emit, a, b), b)
    return emit.Pow(as_value(emit, a, b), b)


@translation(aten.maximum.default, aten.max.other)
def maximum(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    return emit.Max(*emit.promote(x, other))


@translation(aten.minimum.default, aten.min.other)
def minimum(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    return emit.Min(*emit.promote(x, other))


@translation(aten.addcmul.default)
def addcmul(emit: Emitter, x: ir.Value, a: ir.Value, b: ir.Value, value: Any = 1) -> ir.Value:
    return emit.Add(x, _scaled(emit, emit.Mul(a, b), value))


@translation(aten.addcdiv.default)
def addcdiv(emit: Emitter, x: ir.Value, a: ir.Value, b: ir.Value, value: Any = 1) -> ir.Value:
    return emit.Add(x, _scaled(emit, emit.Div(a, b), value))


@translation(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(emit: Emitter, start: ir.Value, end: ir.Value, weight: Any) -> ir.Value:
    return emit.Add(start, emit.Mul(emit.Sub(end, start), weight))
