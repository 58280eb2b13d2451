"""Rounding to an integer grid, with gradients for what is rounded and for the range of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fxcompress.quantization import native

BOUND = 2.0**-10
"""Of a step: a value on the grid's end is inside, whichever way its division by the scale was rounded."""


BLOCK = 2**16
"""Elements that each thread works on at a time: what an operation leaves of them in the cache, the next one finds there."""


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
        result = torch.empty_like(x)
        ctx.native = native.takes(x, scale, zero_point)
        ctx.levels, ctx.shifted, ctx.multiplier = levels, levels, multiplier
        if ctx.native:
            native.loaded.forward(x, result, scale, zero_point, levels)
        else:
            ctx.shifted, zero_point = _shifted(levels, zero_point)
            _round(x, result, scale, zero_point, ctx.shifted)
        ctx.save_for_backward(x, result, scale, zero_point, low, extent)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        x, result, scale, zero_point, low, extent = ctx.saved_tensors
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        learned = extent is not None and ctx.needs_input_grad[4]
        # In `of_extent` go the terms of the sum, times the width of the grid. Beyond the ends y is either of them, which
        # tells 1 above from what holds below: it is y / top, or else (y - bottom) / width, less `bottom` times `of_low`.
        end = 1.0 if low is not None else (ctx.levels[1] - ctx.levels[0]) / ctx.levels[1]
        inside = torch.empty_like(x)
        tensors, scales = (gradient, x, result, inside), (scale, zero_point)
        if ctx.native:
            of_low, of_extent = native.loaded.backward(*tensors, *scales, ctx.levels, BOUND, end)
        else:
            of_low, of_extent = _gradients(tensors, scales, ctx.shifted, end)
        if not learned:
            return inside, None, None, None, None, None, None
        width = (ctx.levels[1] - ctx.levels[0]) * scale
        if low is None:
            of_low = None
        else:
            bottom = (ctx.shifted[0] - (0.0 if zero_point is None else zero_point)) * scale
            of_extent = of_extent - bottom * of_low
            of_low = of_low * ctx.multiplier
        return inside, None, None, of_low, of_extent / width * (extent.sign() * ctx.multiplier), None, None


def _round(x: Tensor, result: Tensor, scale: Tensor, zero_point: Tensor | None, levels: tuple[float, float]) -> None:
    for source, steps, scales, points in _blocks((x, result), (scale, zero_point)):
        torch.div(source, scales, out=steps).round_()
        if points is None:
            steps.clamp_(*levels)
        else:  # a maximum and a minimum: clamping between tensors takes several times as long
            torch.maximum(steps, levels[0] - points, out=steps)
            torch.minimum(steps, levels[1] - points, out=steps)
        steps.mul_(scales)


def _gradients(
    tensors: Sequence[Tensor], scales: Sequence[Tensor | None], levels: tuple[float, float], end: float
) -> tuple[Tensor, Tensor]:
    of_low, of_extent = [], []
    for gradient, x, y, inside, scale, zero_point in _blocks(tensors, scales):
        terms = torch.div(x, scale)
        if zero_point is not None:
            terms.add_(zero_point)
        # torch's kernel for the gradient of a clamp to numbers: one pass, where comparing and masking takes several
        low, high = levels[0] - BOUND, levels[1] + BOUND
        torch.ops.aten.hardtanh_backward.grad_input(gradient, terms, low, high, grad_input=inside)
        torch.sub(y, x, out=terms).mul_(inside)
        outside = gradient - inside
        terms.addcmul_(outside, y, value=end)
        of_low.append(outside.sum_to_size(scale.shape))
        of_extent.append(terms.sum_to_size(scale.shape))
    return _joined(of_low, scales[0]), _joined(of_extent, scales[0])


def _shifted(levels: tuple[int, int], zero_point: Tensor | None) -> tuple[tuple[float, float], Tensor | None]:
    """The same grid with numbers for levels and without a zero point, where one can be had: on a CPU, for a whole tensor."""
    if zero_point is None or zero_point.dim() or zero_point.device.type != "cpu" or torch.compiler.is_compiling():
        return levels, zero_point
    point = zero_point.item()
    return (levels[0] - point, levels[1] - point), None


def _blocks(tensors: Sequence[Tensor], scales: Sequence[Tensor | None]) -> Iterator[tuple[Any, ...]]:
    """Parts of `tensors`, which are laid out alike, each with its part of `scales`, so small that a cache holds them."""
    first, scale = tensors[0], scales[0]
    assert scale is not None
    size = BLOCK * torch.get_num_threads()
    small = first.numel() <= size or first.device.type != "cpu" or torch.compiler.is_compiling()
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    if not small and not scale.dim() and first.permute(order).is_contiguous():
        for parts in zip(*(tensor.permute(order).view(-1).split(size) for tensor in tensors)):
            yield (*parts, *scales)
    elif not small and scale.numel() == len(first) == len(scale) and first.is_contiguous():
        rows = max(size // (first.numel() // len(first)), 1)
        cut = [tensor.view(len(first), -1).split(rows) for tensor in (*tensors, *filter(lambda s: s is not None, scales))]
        for parts in zip(*cut):
            yield (*parts, *[None] * scales.count(None)) if None in scales else parts
    else:
        yield (*tensors, *scales)


def _joined(parts: list[Tensor], scale: Tensor | None) -> Tensor:
    """The sums of all blocks, of the shape of `scale`."""
    assert scale is not None
    if len(parts) == 1:
        return parts[0].view(scale.shape)
    return torch.cat(parts).view(scale.shape) if scale.dim() else torch.stack(parts).sum()
