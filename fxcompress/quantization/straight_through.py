"""Rounding to an integer grid, with gradients for what is rounded and for the range of the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BOUND = 2.0**-10
"""Of a step: a value on the grid's end is inside, whichever way its division by the scale was rounded."""


class FakeQuantize(torch.autograd.Function):
    """``(clamp(round(x / scale) + zero_point, *levels) - zero_point) * scale``.

    In the order of `fxcompress::quantize` and `fxcompress::dequantize`, so the bits are equal. With y for the result, g for
    its gradient, and `bottom` and `top` for the values of the two ends of the grid, the gradients are

    * of x: g between the ends, 0 beyond them (the straight-through estimator of Bengio et al., arXiv 1308.3432);
    * of `extent`: ``sum(g * k) * sign(extent)``, where k is (y - x) / (top - bottom) between the ends and 1 above; below, 0,
      or bottom / top where there is no `low`, so that the lower end follows the upper one;
    * of `low`: the sum of g beyond the ends;

    those of NNCF (arXiv 2002.08679), section "Quantization". Note that between the ends, too, the gradient of a signed
    symmetric grid is divided by its whole width, though `extent` is about half of it.

    Args:
        x: values of any shape.
        scale: the step, of a shape that broadcasts over `x`.
        zero_point: likewise; None for 0.
        low: what the lower end of the grid is learned by; None for a symmetric grid, and for one that is not learned.
        extent: what its width, or the upper end of a symmetric grid, is learned by; None for a grid that is not learned.
        levels: the lowest and highest integer.
        multiplier: of the gradients of `low` and `extent`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: Tensor | None,
        extent: Tensor | None,
        levels: tuple[int, int],
        multiplier: float,
    ) -> Tensor:
        steps = torch.div(x, scale)
        result = steps.round() if any(ctx.needs_input_grad) else steps.round_()
        if zero_point is None:
            result.clamp_(*levels)
        else:  # a minimum and a maximum: clamping between tensors takes several times as long
            torch.maximum(result, levels[0] - zero_point, out=result)
            torch.minimum(result, levels[1] - zero_point, out=result)
        result.mul_(scale)
        ctx.levels, ctx.multiplier = levels, multiplier
        ctx.save_for_backward(steps, result, scale, zero_point, extent)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        steps, result, scale, zero_point, extent = ctx.saved_tensors
        low, high = ctx.levels
        level = steps if zero_point is None else steps + zero_point
        # torch's kernel for the gradient of a clamp to numbers: one pass, where comparing and masking takes several
        inside = torch.ops.aten.hardtanh_backward(gradient, level, low - BOUND, high + BOUND)
        if extent is None or not ctx.needs_input_grad[4]:
            return inside, None, None, None, None, None, None
        error = torch.addcmul(result, steps, scale, value=-1)
        width = (high - low) * scale
        of_extent = error.mul_(inside).sum_to_size(extent.shape) / width
        outside = torch.sub(gradient, inside, out=error)
        if zero_point is None:
            of_low = None
            of_extent += outside.mul_(result).sum_to_size(extent.shape) / (high * scale)  # 1 above, bottom / top below
        else:
            of_low = outside.sum_to_size(extent.shape)
            bottom = (low - zero_point) * scale
            beyond = torch.mul(outside, result, out=level).sum_to_size(extent.shape)
            of_extent += (beyond - bottom * of_low) / width
            of_low = of_low * ctx.multiplier
        return inside, None, None, of_low, of_extent * (extent.sign() * ctx.multiplier), None, None
