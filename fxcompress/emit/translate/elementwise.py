"""Functions of one operand, casts, and what does nothing at inference."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.complex_parts import as_pairs, real
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


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


@translation(aten.relu.default)
def relu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Relu(x) if emit.dtype(x).is_floating_point else emit.Max(x, 0)  # onnxruntime's Relu takes no int64


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


@translation(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.type_as.default)
@translation(aten.to.other, aten.to.prim_Device, aten.to.prim_dtype)
@translation(aten._to_copy.default, takes_complex=True)
def to(emit: Emitter, x: ir.Value, *_: Any, **__: Any) -> ir.Value:
    if emit.result.is_complex():
        return as_pairs(emit, x, emit.result.dtype.to_real())
    if emit.fake(x).is_complex():
        x = real(emit, x)
    return emit.cast(x, emit.result.dtype)


@translation(aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default)
@translation(aten.lift_fresh.default, aten.lift_fresh_copy.default, aten.lift.default, aten.detach_.default)
def identity(emit: Emitter, x: ir.Value, **_: Any) -> ir.Value:
    return x


@translation(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
def dropout(emit: Emitter, x: ir.Value, p: float, train: bool) -> ir.Value:
    if train and p > 0:
        emit.refuse("dropout is in training mode: call eval() on the model first")
    return x
