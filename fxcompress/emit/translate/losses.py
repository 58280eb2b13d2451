"""Losses that models compute in their forward, in operations that both runtimes have."""

from __future__ import annotations

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten

_NONE, _MEAN = 0, 1
"""How errors are reduced, as ATen numbers it; 2 is their sum."""


@translation(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def negative_log_likelihood(
    emit: Emitter, x: ir.Value, target: ir.Value, weight: ir.Value | None, reduction: int, ignore_index: int
) -> list[ir.Value]:
    """The loss, and the sum of the weights of the targets, which a mean divides by; OpenVINO has no operator of it."""
    axis = min(1, emit.rank(x) - 1)
    ignored = emit.Equal(target, ignore_index)
    classes = emit.Where(ignored, 0, target)
    picked = emit.Squeeze(emit.GatherElements(x, emit.Unsqueeze(classes, [axis]), axis=axis), [axis])
    one = emit.constant(torch.ones((), dtype=emit.dtype(x)))
    weights = emit.Where(ignored, 0.0, one if weight is None else emit.Gather(weight, classes, axis=0))
    errors = emit.Neg(emit.Mul(picked, weights))
    if reduction == _NONE:
        return [errors, emit.constant(torch.zeros((), dtype=emit.dtype(x)))]
    axes = list(range(emit.rank(target)))
    total, weighed = (emit.ReduceSum(one, axes, keepdims=0) if axes else one for one in (errors, weights))
    return [emit.Div(total, weighed) if reduction == _MEAN else total, weighed]
