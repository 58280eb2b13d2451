"""Functions that ONNX spells with others, which lose digits or quadrants: complementary errors, and the angle of a point."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten

# log(erfcx(x) / t) as a polynomial of t = 1 / (1 + x / 2), lowest power first: least squares on 200 Chebyshev nodes of 0..1,
# relative error 1e-7.
_COEFFICIENTS = [-1.26551223, 1.00002368, 0.37409196, 0.09678419, -0.18628806]
_COEFFICIENTS += [0.27886808, -1.135204, 1.48851589, -0.82215223, 0.17087278]


@translation(aten.special_erfcx.default)
def scaled_complement(emit: Emitter, x: ir.Value) -> ir.Value:
    """``exp(x^2) erfc(x)``, and ``2 exp(x^2) - erfcx(-x)`` below zero."""
    x = emit.cast(x, emit.result.dtype)
    above = _of_positive(emit, emit.Abs(x))
    below = emit.Sub(emit.Mul(emit.Exp(emit.Mul(x, x)), 2.0), above)
    return emit.Where(emit.Less(x, 0.0), below, above)


@translation(aten.erfc.default, aten.special_erfc.default)
def complement(emit: Emitter, x: ir.Value) -> ir.Value:
    """``exp(-x^2) erfcx(x)`` where that is small."""
    x = emit.cast(x, emit.result.dtype)
    small = emit.Mul(emit.Exp(emit.Neg(emit.Mul(x, x))), _of_positive(emit, emit.Abs(x)))
    return emit.Where(emit.Less(x, 1.0), emit.Sub(1.0, emit.Erf(x)), small)


def _of_positive(emit: Emitter, x: ir.Value) -> ir.Value:
    t = emit.Reciprocal(emit.Add(emit.Mul(x, 0.5), 1.0))
    power: ir.Value | float = _COEFFICIENTS[-1]
    for coefficient in reversed(_COEFFICIENTS[:-1]):
        power = emit.Add(emit.Mul(t, power), coefficient)
    return emit.Mul(t, emit.Exp(power))


@translation(aten.atan2.default)
def angle(emit: Emitter, y: ir.Value, x: ir.Value) -> ir.Value:
    """That of the point (x, y); a zero counts as positive, and the angle of the origin is 0."""
    y, x = emit.cast(y, emit.result.dtype), emit.cast(x, emit.result.dtype)
    upright = emit.Equal(x, 0.0)
    slope = emit.Atan(emit.Div(y, emit.Where(upright, 1.0, x)))
    turned = emit.Where(emit.Less(y, 0.0), emit.Sub(slope, math.pi), emit.Add(slope, math.pi))
    leaning = emit.Where(emit.Less(x, 0.0), turned, slope)
    return emit.Where(upright, emit.Mul(emit.Sign(y), math.pi / 2), leaning)


@translation(aten.logaddexp.default)
def log_of_sum(emit: Emitter, x: ir.Value, y: ir.Value) -> ir.Value:
    """``log(exp(x) + exp(y))``, where neither power overflows; two infinities of one sign are that."""
    x, y = emit.promote(x, y)
    gap = emit.Where(emit.Equal(x, y), 0.0, emit.Abs(emit.Sub(x, y)))
    return emit.Add(emit.Max(x, y), emit.Log(emit.Add(emit.Exp(emit.Neg(gap)), 1.0)))
