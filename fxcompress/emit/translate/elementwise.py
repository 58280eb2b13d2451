"""Elementwise arithmetic, activations, comparisons, logic and casts."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, number, translation

aten = torch.ops.aten


# Unary ---------------------------------------------------------------------------------------------------------------

# ATen functions with an ONNX operator of the same meaning; an integer operand is promoted to the result's type.
_UNARY = {
    "Abs": aten.abs.default,
    "Acos": aten.acos.default,
    "Acosh": aten.acosh.default,
    "Asin": aten.asin.default,
    "Asinh": aten.asinh.default,
    "Atan": aten.atan.default,
    "Atanh": aten.atanh.default,
    "Ceil": aten.ceil.default,
    "Cos": aten.cos.default,
    "Cosh": aten.cosh.default,
    "Erf": aten.erf.default,
    "Exp": aten.exp.default,
    "Floor": aten.floor.default,
    "HardSwish": aten.hardswish.default,
    "Log": aten.log.default,
    "Mish": aten.mish.default,
    "Neg": aten.neg.default,
    "Reciprocal": aten.reciprocal.default,
    "Relu": aten.relu.default,
    "Round": aten.round.default,
    "Sigmoid": aten.sigmoid.default,
    "Sign": aten.sign.default,
    "Sin": aten.sin.default,
    "Sinh": aten.sinh.default,
    "Sqrt": aten.sqrt.default,
    "Tan": aten.tan.default,
    "Tanh": aten.tanh.default,
}
_INTEGER_IDENTITIES = {"Ceil", "Floor", "Round"}


def _register_unary(op_type: str, target: Any) -> None:
    @translation(target)
    def unary(emit: Emitter, x: ir.Value) -> ir.Value:
        if op_type in _INTEGER_IDENTITIES and not emit.dtype(x).is_floating_point:
            return x
        return emit.op(op_type, emit.cast(x, emit.result.dtype))


for _op_type, _target in _UNARY.items():
    _register_unary(_op_type, _target)


@translation(aten.rsqrt.default)
def rsqrt(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Reciprocal(emit.Sqrt(emit.cast(x, emit.result.dtype)))


@translation(aten.square.default)
def square(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Mul(x, x)


@translation(aten.log2.default)
def log2(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Div(emit.Log(emit.cast(x, emit.result.dtype)), math.log(2))


@translation(aten.log10.default)
def log10(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Div(emit.Log(emit.cast(x, emit.result.dtype)), math.log(10))


@translation(aten.log1p.default)
def log1p(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Log(emit.Add(emit.cast(x, emit.result.dtype), 1.0))


@translation(aten.expm1.default)
def expm1(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Sub(emit.Exp(emit.cast(x, emit.result.dtype)), 1.0)


@translation(aten.trunc.default, aten.fix.default)
def trunc(emit: Emitter, x: ir.Value) -> ir.Value:
    if not emit.dtype(x).is_floating_point:
        return x
    return emit.Mul(emit.Sign(x), emit.Floor(emit.Abs(x)))


@translation(aten.isnan.default)
def isnan(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.IsNaN(x)


@translation(aten.isinf.default)
def isinf(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.IsInf(x)


# Activations ---------------------------------------------------------------------------------------------------------


@translation(aten.silu.default)
def silu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Mul(x, emit.Sigmoid(x))


@translation(aten.gelu.default)
def gelu(emit: Emitter, x: ir.Value, approximate: str = "none") -> ir.Value:
    return emit.Gelu(x, approximate=approximate)


@translation(aten.hardsigmoid.default)
def hardsigmoid(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.HardSigmoid(x, alpha=1 / 6, beta=0.5)


@translation(aten.leaky_relu.default)
def leaky_relu(emit: Emitter, x: ir.Value, negative_slope: float = 0.01) -> ir.Value:
    return emit.LeakyRelu(x, alpha=float(negative_slope))


@translation(aten.elu.default)
def elu(emit: Emitter, x: ir.Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> ir.Value:
    if scale == 1 and input_scale == 1:
        return emit.Elu(x, alpha=float(alpha))
    if input_scale == 1:
        return emit.Selu(x, alpha=float(alpha), gamma=float(scale))
    negative = emit.Mul(emit.Sub(emit.Exp(emit.Mul(x, float(input_scale))), 1.0), float(alpha * scale))
    return emit.Where(emit.Greater(x, 0.0), emit.Mul(x, float(scale)), negative)


@translation(aten.selu.default)
def selu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Selu(x, alpha=1.6732632423543772848170429916717, gamma=1.0507009873554804934193349852946)


@translation(aten.celu.default)
def celu(emit: Emitter, x: ir.Value, alpha: float = 1.0) -> ir.Value:
    return emit.Celu(x, alpha=float(alpha))


@translation(aten.softplus.default)
def softplus(emit: Emitter, x: ir.Value, beta: float = 1, threshold: float = 20) -> ir.Value:
    scaled = x if beta == 1 else emit.Mul(x, float(beta))
    smooth = emit.Softplus(scaled) if beta == 1 else emit.Div(emit.Softplus(scaled), float(beta))
    return emit.Where(emit.Greater(scaled, float(threshold)), x, smooth)


@translation(aten.log_sigmoid.default)
def log_sigmoid(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Neg(emit.Softplus(emit.Neg(x)))


@translation(aten.softshrink.default)
def softshrink(emit: Emitter, x: ir.Value, lambd: float = 0.5) -> ir.Value:
    return emit.Shrink(x, bias=float(lambd), lambd=float(lambd))


@translation(aten.hardshrink.default)
def hardshrink(emit: Emitter, x: ir.Value, lambd: float = 0.5) -> ir.Value:
    return emit.Shrink(x, bias=0.0, lambd=float(lambd))


@translation(aten.glu.default)
def glu(emit: Emitter, x: ir.Value, dim: int = -1) -> ir.Value:
    value, gate = emit.Split(x, outputs=2, axis=dim, num_outputs=2)
    return emit.Mul(value, emit.Sigmoid(gate))


@translation(aten.threshold.default)
def threshold(emit: Emitter, x: ir.Value, threshold: float, value: float) -> ir.Value:
    dtype = emit.dtype(x)
    return emit.Where(emit.Greater(x, number(threshold, dtype)), x, number(value, dtype))


@translation(aten.prelu.default)
def prelu(emit: Emitter, x: ir.Value, weight: ir.Value) -> ir.Value:
    (channels,) = emit.static(weight, 0)
    if channels == 1 or emit.rank(x) <= 2:
        return emit.PRelu(x, weight)
    shape = (channels,) + (1,) * (emit.rank(x) - 2)
    data = emit.data(weight)
    if data is None:
        return emit.PRelu(x, emit.Reshape(weight, list(shape)))
    reshaped = emit.derived(weight, shape, lambda: emit.stored(data.reshape(shape), weight.name or "slope"))
    return emit.PRelu(x, reshaped)


@translation(aten.clamp.default, aten.hardtanh.default, aten.clip.default)
def clamp(emit: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:  # noqa: A002
    if emit.node.target is aten.hardtanh.default:
        min, max = -1.0 if min is None else min, 1.0 if max is None else max  # noqa: A001
    dtype = emit.result.dtype
    return emit.Clip(emit.cast(x, dtype), number(min, dtype), number(max, dtype))


@translation(aten.clamp.Tensor)
def clamp_tensor(emit: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:  # noqa: A002
    dtype = emit.result.dtype
    x = emit.cast(x, dtype)
    if min is not None:
        x = emit.Max(x, emit.cast(min, dtype))
    return x if max is None else emit.Min(x, emit.cast(max, dtype))


@translation(aten.relu6.default)
def relu6(emit: Emitter, x: ir.Value) -> ir.Value:
    return clamp(emit, x, 0, 6)


@translation(aten.clamp_min.default)
def clamp_min(emit: Emitter, x: ir.Value, min: Any) -> ir.Value:  # noqa: A002
    return clamp(emit, x, min)


@translation(aten.clamp_max.default)
def clamp_max(emit: Emitter, x: ir.Value, max: Any) -> ir.Value:  # noqa: A002
    return clamp(emit, x, None, max)


# Arithmetic ----------------------------------------------------------------------------------------------------------


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
    return emit.Neg(scaled) if not isinstance(b, ir.Value) and b == 0 else emit.Sub(_first(emit, b, a), scaled)


def _first(emit: Emitter, operand: Any, like: ir.Value) -> ir.Value:
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
def pow(emit: Emitter, x: ir.Value, exponent: Any) -> ir.Value:  # noqa: A001
    a, b = emit.promote(x, exponent)
    if not isinstance(b, ir.Value):
        if b == 2:
            return emit.Mul(a, a)
        if b == 0.5:
            return emit.Sqrt(a)
        if b == -0.5:
            return emit.Reciprocal(emit.Sqrt(a))
    return emit.Pow(a, b)


@translation(aten.pow.Scalar)
def pow_scalar(emit: Emitter, base: Any, exponent: ir.Value) -> ir.Value:
    a, b = emit.promote(base, exponent)
    return emit.Pow(_first(emit, a, b), b)


@translation(aten.maximum.default, aten.max.other)
def maximum(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    return emit.Max(*emit.promote(x, other))


@translation(aten.minimum.default, aten.min.other)
def minimum(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
    return emit.Min(*emit.promote(x, other))


@translation(aten.addcmul.default)
def addcmul(emit: Emitter, x: ir.Value, a: ir.Value, b: ir.Value, value: Any = 1) -> ir.Value:
    dtype = emit.result.dtype
    product = emit.Mul(emit.cast(a, dtype), emit.cast(b, dtype))
    return emit.Add(emit.cast(x, dtype), _scaled(emit, product, value))


@translation(aten.addcdiv.default)
def addcdiv(emit: Emitter, x: ir.Value, a: ir.Value, b: ir.Value, value: Any = 1) -> ir.Value:
    return emit.Add(x, _scaled(emit, emit.Div(a, b), value))


@translation(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(emit: Emitter, start: ir.Value, end: ir.Value, weight: Any) -> ir.Value:
    return emit.Add(start, emit.Mul(emit.Sub(end, start), weight))


# Comparison and logic ------------------------------------------------------------------------------------------------

_COMPARISONS = {
    "Equal": aten.eq,
    "Less": aten.lt,
    "LessOrEqual": aten.le,
    "Greater": aten.gt,
    "GreaterOrEqual": aten.ge,
}


def _comparable(emit: Emitter, x: ir.Value, other: Any) -> tuple[Any, Any]:
    a, b = emit.promote(x, other)
    if emit.common_dtype(x, other) == torch.bool and emit.node.target not in _EQUALITIES:
        return emit.cast(a, torch.int32), emit.cast(_first(emit, b, a), torch.int32)
    return a, b


_EQUALITIES = {aten.eq.Tensor, aten.eq.Scalar, aten.ne.Tensor, aten.ne.Scalar}


def _register_comparison(op_type: str, packet: Any) -> None:
    @translation(packet.Tensor, packet.Scalar)
    def compare(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
        return emit.op(op_type, *_comparable(emit, x, other))


for _op_type, _target in _COMPARISONS.items():
    _register_comparison(_op_type, _target)


@translation(aten.ne.Tensor, aten.ne.Scalar)
def ne(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    return emit.Not(emit.Equal(*_comparable(emit, x, other)))


def _truth(emit: Emitter, x: Any) -> ir.Value:
    return emit.cast(x, torch.bool)


@translation(aten.logical_not.default)
def logical_not(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Not(_truth(emit, x))


@translation(aten.bitwise_not.default)
def bitwise_not(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Not(x) if emit.dtype(x) == torch.bool else emit.BitwiseNot(x)


def _register_logic(name: str, logical: Any, bitwise: tuple[Any, ...]) -> None:
    @translation(logical)
    def logic(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
        return emit.op(name, _truth(emit, x), _truth(emit, other))

    @translation(*bitwise)
    def bits(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
        a, b = emit.promote(x, other)
        return emit.op(name if emit.result.dtype == torch.bool else f"Bitwise{name}", a, b)


def _overloads(*packets: Any) -> tuple[Any, ...]:
    return tuple(overload for packet in packets for overload in (packet.Tensor, packet.Scalar))


_register_logic("And", aten.logical_and.default, _overloads(aten.bitwise_and, aten.__and__))
_register_logic("Or", aten.logical_or.default, _overloads(aten.bitwise_or, aten.__or__))
_register_logic("Xor", aten.logical_xor.default, _overloads(aten.bitwise_xor, aten.__xor__))


@translation(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(emit: Emitter, condition: ir.Value, x: Any, other: Any) -> ir.Value:
    dtype = emit.result.dtype
    a, b = (
        emit.cast(o, dtype) if isinstance(o, ir.Value) else emit.constant(torch.tensor(o, dtype=dtype))
        for o in (x, other)
    )
    return emit.Where(_truth(emit, condition), a, b)


@translation(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(emit: Emitter, x: ir.Value, mask: ir.Value, value: Any) -> ir.Value:
    return where(emit, mask, value, x)


# Casts and what does nothing -----------------------------------------------------------------------------------------


@translation(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default, aten.type_as.default)
@translation(aten.to.other, aten.to.prim_Device, aten.to.prim_dtype)
def to(emit: Emitter, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    return emit.cast(x, emit.result.dtype)


@translation(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default)
@translation(aten.lift_fresh.default, aten.lift_fresh_copy.default, aten.lift.default, aten.detach_.default)
def identity(emit: Emitter, x: ir.Value, **_: Any) -> ir.Value:
    return x


@translation(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
def dropout(emit: Emitter, x: ir.Value, p: float, train: bool) -> ir.Value:
    if train and p > 0:
        emit.unsupported("dropout is in training mode: call eval() on the model first")
    return x
