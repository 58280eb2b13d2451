"""Batch, layer, group, instance, RMS and weight normalization, in inference form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


def _ones(emit: Emitter, count: int, like: ir.Value) -> ir.Value:
    return emit.constant(torch.ones(count, dtype=emit.dtype(like)))


def _zeros(emit: Emitter, count: int, like: ir.Value) -> ir.Value:
    return emit.constant(torch.zeros(count, dtype=emit.dtype(like)))


@translation(aten.batch_norm.default)
def batch_norm(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    running_mean: ir.Value | None,
    running_var: ir.Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> ir.Value:
    if running_mean is None or running_var is None:
        return _by_own_statistics(emit, x, weight, bias, eps)
    if training:
        emit.refuse("batch norm updates its running statistics: call eval() on the model first")
    (channels,) = emit.static(x, 1)
    weight = _ones(emit, channels, x) if weight is None else weight
    bias = _zeros(emit, channels, x) if bias is None else bias
    return emit.BatchNormalization(x, weight, bias, running_mean, running_var, epsilon=float(eps))


def _by_own_statistics(emit: Emitter, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, eps: float) -> ir.Value:
    """Without running statistics a batch norm has only those of its input, such as a standardized weight."""
    axes = [0, *range(2, emit.rank(x))]
    (channels,) = emit.static(x, 1)
    per_channel = [channels] + [1] * (emit.rank(x) - 2)
    centred = emit.Sub(x, emit.ReduceMean(x, axes, keepdims=1))
    variance = emit.ReduceMean(emit.Mul(centred, centred), axes, keepdims=1)
    scaled = emit.Div(centred, emit.Sqrt(emit.Add(variance, float(eps))))
    if weight is not None:
        scaled = emit.Mul(scaled, emit.Reshape(weight, per_channel))
    return scaled if bias is None else emit.Add(scaled, emit.Reshape(bias, per_channel))


@translation(aten._native_batch_norm_legit.no_stats)
def native_batch_norm_of_input(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[ir.Value, None, None]:
    return _by_own_statistics(emit, x, weight, bias, eps), None, None


@translation(aten._native_batch_norm_legit_no_training.default)
def native_batch_norm(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    mean: ir.Value,
    var: ir.Value,
    momentum: float,
    eps: float,
) -> tuple[ir.Value, None, None]:
    return batch_norm(emit, x, weight, bias, mean, var, False, momentum, eps, False), None, None


@translation(aten.layer_norm.default)
def layer_norm(
    emit: Emitter,
    x: ir.Value,
    normalized_shape: Sequence[int],
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> ir.Value:
    if weight is None:
        weight = emit.constant(torch.ones(list(normalized_shape), dtype=emit.dtype(x)))
    return emit.LayerNormalization(x, weight, bias, axis=-len(normalized_shape), epsilon=float(eps))


@translation(aten.rms_norm.default)
def rms_norm(
    emit: Emitter,
    x: ir.Value,
    normalized_shape: Sequence[int],
    weight: ir.Value | None = None,
    eps: float | None = None,
) -> ir.Value:
    axes = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(emit.dtype(x)).eps if eps is None else eps
    mean = emit.ReduceMean(emit.Mul(x, x), axes, keepdims=1)
    scaled = emit.Mul(x, emit.Reciprocal(emit.Sqrt(emit.Add(mean, float(eps)))))
    return scaled if weight is None else emit.Mul(scaled, weight)


@translation(aten.group_norm.default)
def group_norm(
    emit: Emitter,
    x: ir.Value,
    num_groups: int,
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> ir.Value:
    """As an instance norm of groups: of ONNX's own, onnxruntime takes the variance from sums of squares, without digits."""
    (channels,) = emit.static(x, 1)
    groups = emit.Reshape(x, [0, num_groups, -1])
    ones, zeros = _ones(emit, num_groups, x), _zeros(emit, num_groups, x)
    normalized = emit.InstanceNormalization(groups, ones, zeros, epsilon=float(eps))
    sizes = emit.shape(x)[1:]
    known = all(isinstance(size, int) for size in sizes)
    normalized = emit.Reshape(normalized, [0, *sizes] if known else emit.Shape(x))
    per_channel = [channels] + [1] * (emit.rank(x) - 2)
    if weight is not None:
        normalized = emit.Mul(normalized, emit.Reshape(weight, per_channel))
    return normalized if bias is None else emit.Add(normalized, emit.Reshape(bias, per_channel))


@translation(aten.instance_norm.default)
def instance_norm(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    running_mean: ir.Value | None,
    running_var: ir.Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> ir.Value:
    if not use_input_stats:
        return batch_norm(emit, x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled)
    (channels,) = emit.static(x, 1)
    weight = _ones(emit, channels, x) if weight is None else weight
    bias = _zeros(emit, channels, x) if bias is None else bias
    return emit.InstanceNormalization(x, weight, bias, epsilon=float(eps))


@translation(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.norm.Scalar)
def vector_norm(
    emit: Emitter,
    x: ir.Value,
    ord: float = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> ir.Value:
    order = 2 if ord is None else ord
    axes = list(range(emit.rank(x))) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    x = emit.cast(x, emit.result.dtype)
    keep = int(keepdim)
    if emit.rank(x) == 0:
        return emit.Abs(x)
    if order == 2:
        return emit.ReduceL2(x, axes, keepdims=keep)
    if order == 1:
        return emit.ReduceL1(x, axes, keepdims=keep)
    if order == 0:
        return emit.ReduceSum(emit.Abs(emit.Sign(x)), axes, keepdims=keep)
    if math.isinf(order):
        return emit.op("ReduceMax" if order > 0 else "ReduceMin", emit.Abs(x), axes, keepdims=keep)
    total = emit.ReduceSum(emit.Pow(emit.Abs(x), float(order)), axes, keepdims=keep)
    return emit.Pow(total, 1.0 / float(order))


@translation(aten._weight_norm.default)
def weight_norm(emit: Emitter, v: ir.Value, g: ir.Value, dim: int = 0) -> ir.Value:
    """``g * v / ||v||``, the norm over all dimensions but `dim`, or over all for -1 (arXiv 1602.07868, equation 2)."""
    axes = [axis for axis in range(emit.rank(v)) if dim == -1 or axis != dim % emit.rank(v)]
    return emit.Mul(v, emit.Div(g, emit.ReduceL2(v, axes, keepdims=1)))
