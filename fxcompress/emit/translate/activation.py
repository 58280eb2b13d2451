"""Activation functions."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.types import number

aten = torch.ops.aten


@translation(aten.silu.default)
def silu(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Mul(x, emit.Sigmoid(x))


@translation(aten.gelu.default)
def gelu(emit: Emitter, x: ir.Value, approximate: str = "none") -> ir.Value:
    return emit.Gelu(x, approximate=approximate)


@translation(aten.hardsigmoid.default)
def hardsigmoid(emit: Emitter, x: ir.Value) -> ir.Value:
    # OpenVINO fuses this spelling into the kernel before it, and runs an ONNX HardSigmoid as a node of its own.
    return emit.Mul(emit.Clip(emit.Add(x, 3.0), 0.0, 6.0), 1 / 6)


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


@translation(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(emit: Emitter, x: ir.Value) -> list[ir.Value | None]:
    return [log_sigmoid(emit, x), None]


@translation(aten.softshrink.default)
def softshrink(emit: Emitter, x: ir.Value, lambd: float = 0.5) -> ir.Value:
    return emit.Shrink(x, bias=float(lambd), lambd=float(lambd))


@translation(aten.hardshrink.default)
def hardshrink(emit: Emitter, x: ir.Value, lambd: float = 0.5) -> ir.Value:
    return emit.Shrink(x, bias=0.0, lambd=float(lambd)) if lambd >= 0 else x


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
    channels = emit.static(weight, 0)[0] if emit.rank(weight) else 1
    if channels == 1 or emit.rank(x) <= 2:
        return emit.PRelu(x, weight)
    shape = (channels,) + (1,) * (emit.rank(x) - 2)
    data = emit.data(weight)
    if data is None:
        return emit.PRelu(x, emit.Reshape(weight, list(shape)))
    reshaped = emit.derived(weight, shape, lambda: emit.stored(data.reshape(shape), weight.name or "slope"))
    return emit.PRelu(x, reshaped)


@translation(aten.clamp.default, aten.hardtanh.default, aten.clip.default)
def clamp(emit: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:
    if emit.node.target is aten.hardtanh.default:
        min, max = -1.0 if min is None else min, 1.0 if max is None else max
    dtype = emit.result.dtype
    return emit.Clip(emit.cast(x, dtype), number(min, dtype), number(max, dtype))


@translation(aten.clamp.Tensor)
def clamp_tensor(emit: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:
    dtype = emit.result.dtype
    x = emit.cast(x, dtype)
    if min is not None:
        x = emit.Max(x, emit.cast(min, dtype))
    return x if max is None else emit.Min(x, emit.cast(max, dtype))


@translation(aten.relu6.default)
def relu6(emit: Emitter, x: ir.Value) -> ir.Value:
    return clamp(emit, x, 0, 6)


@translation(aten.clamp_min.default)
def clamp_min(emit: Emitter, x: ir.Value, min: Any) -> ir.Value:
    return clamp(emit, x, min)


@translation(aten.clamp_max.default)
def clamp_max(emit: Emitter, x: ir.Value, max: Any) -> ir.Value:
    return clamp(emit, x, None, max)
