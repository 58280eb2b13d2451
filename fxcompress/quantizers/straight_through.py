"""Rounding to an integer grid, with gradients for what is rounded and for the range of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fxcompress.quantizers import linearized
from fxcompress.quantizers.kernels import kernel_for
from fxcompress.quantizers.layout import by_stride, is_dense

BOUND = 2.0**-10
"""Of a step: a value on the grid's end is inside, whichever way its division by the scale was rounded."""

HALF = (torch.bfloat16, torch.float16)
"""Too coarse to divide in: what is of these types is rounded in float32."""

Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)

BLOCK = 2**17
"""Elements that each thread works on at a time: what an operation leaves of them in the cache, the next one finds there."""


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: Tensor | None,
    extent: Tensor | None,
    levels: tuple[int, int],
    multiplier: float,
    within: Range = EVERYTHING,
) -> Tensor:
    """`FakeQuantize` of these, also inside transformations of torch's."""
    if within != EVERYTHING and (linearized.is_transformed() or kernel_for(x, scale, zero_point, training=True) is None):
        x, within = clamped(x, within), EVERYTHING
    if linearized.is_transformed():
        wide, grid = x.float() if x.dtype in HALF else x, linearized.Grid(scale, zero_point, low, extent, levels, multiplier)
        return linearized.fake_quantize(wide, grid, BOUND).to(x.dtype)
    return FakeQuantize.apply(x, scale, zero_point, low, extent, levels, multiplier, within)


def clamped(x: Tensor, within: Range) -> Tensor:
    """`x` clamped to `within`; what is at its ends or beyond has no gradient, as of a ReLU."""
    if within == EVERYTHING:
        return x
    return x.relu() if within == (0.0, math.inf) else torch.nn.functional.hardtanh(x, *within)


class FakeQuantize(torch.autograd.Function):
    """``(clamp(round(x / scale) + zero_point, *levels) - zero_point) * scale``.

    Of `x` clamped to `within`, as a ReLU before it does, whose gradient it then has as well: one pass over memory for two.
    In the order of `fxcompress::quantize` and `fxcompress::dequantize`, so the bits are equal. With y for the result, g for its
    gradient, and `bottom` and `top` for the values of the two ends of the grid, the gradients are

    * of x: g between the ends, 0 beyond them (the straight-through estimator of Bengio et al., arXiv 1308.3432);
    * of `extent`: ``sum(g * k) * sign(extent)``, where k is (y - x) / (top - bottom) between the ends and 1 above; below, 0,
      or bottom / top where there is no `low`, so that the lower end follows the upper one;
    * of `low`: the sum of g beyond the ends;

    those of NNCF (arXiv 2002.08679), section "Quantization". Between the ends of a signed symmetric grid the published
    gradient is divided by the whole width, as it is here, though `extent` is about half of it.

    Args:
        x: values of any shape.
        scale: the step, of a shape that broadcasts over `x`.
        zero_point: likewise; None for 0.
        low: what the lower end of the grid is learned by; None for a symmetric grid, and for one that is not learned.
        extent: what its width, or the upper end of a symmetric grid, is learned by; None for a grid that is not learned.
        levels: the lowest and highest integer.
        multiplier: of the gradients of `low` and `extent`.
        within: the least and the most that a kernel clamps `x` to; where there is none, it is `EVERYTHING`.
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
        within: Range = EVERYTHING,
    ) -> Tensor:
        if torch.compiler.is_compiling():
            x = x.contiguous()  # torch.compile takes no results that are written to strided memory
        training = any(ctx.needs_input_grad)
        source, kernel = x, kernel_for(x, scale, zero_point, training=training)
        if kernel is None and x.dtype in HALF:
            source = x.float()
            kernel = kernel_for(source, scale, zero_point, training=training)
        ctx.kernel, ctx.computed_in, result = kernel, source.dtype, _empty_result(source)
        ctx.levels, ctx.multiplier, ctx.symmetric, ctx.within = levels, multiplier, low is None, within
        ctx.grid = scale, zero_point  # not saved as the others are: they may stem from inference mode
        if kernel is not None:
            kernel.forward(source, result, scale, zero_point, levels, within)
        else:
            _round(source, result, scale, zero_point, levels)
        if not torch.compiler.is_compiling() and x.is_inference():
            x = x.clone()  # autograd refuses to keep a weight from inference mode
        ctx.save_for_backward(x, extent)
        return result.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        (x, extent), (scale, zero_point) = ctx.saved_tensors, ctx.grid
        given, x, gradient = x.dtype, x.to(ctx.computed_in), gradient.to(ctx.computed_in)
        if ctx.kernel is not None:
            gradient = gradient.resolve_neg()  # views that torch negates where it reads them
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # for gradients of gradients
            low = None if ctx.symmetric else scale  # any tensor of its shape
            learned = linearized.Grid(scale, zero_point, low, extent, ctx.levels, ctx.multiplier)
            of_x, of_low, of_extent = linearized.gradients(gradient, x.clamp(*ctx.within), learned, BOUND)
            for bound, beyond in zip(ctx.within, (torch.le, torch.ge)):
                of_x = of_x if math.isinf(bound) else torch.where(beyond(x, bound), 0.0, of_x)
            return of_x.to(given), None, None, of_low, of_extent, None, None, None
        if gradient.stride() != x.stride():
            dense = gradient if gradient.layout is torch.strided else gradient.to_dense()  # of a table's rows, sparse=True
            gradient = torch.empty_like(x).copy_(dense)
        if ctx.kernel is not None:
            grid = scale, zero_point, ctx.levels, BOUND, ctx.symmetric, ctx.within
            inside, of_low, of_extent = ctx.kernel.backward(gradient, x, *grid)
        else:
            inside, of_low, of_extent = _gradients(gradient, x, scale, zero_point, ctx.levels, ctx.symmetric)
        inside = inside.to(given)
        if extent is None:
            return inside, None, None, None, None, None, None, None
        of_extent = of_extent * (extent.sign() * ctx.multiplier)
        return inside, None, None, None if ctx.symmetric else of_low * ctx.multiplier, of_extent, None, None, None


def _round(x: Tensor, result: Tensor, scale: Tensor, zero_point: Tensor | None, levels: tuple[int, int]) -> None:
    """Write to `result` what `x` is on the grid, in torch's operations."""
    (low, high), zero_point = _shifted(levels, zero_point)
    for source, steps, scales, points in _blocks((x, result), (scale, zero_point)):
        torch.div(source, scales, out=steps).round_()
        _clamp(steps, low, high, points)
        steps.mul_(scales)


def _gradients(
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    levels: tuple[int, int],
    symmetric: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `x`, and of what the lower end and the extent of the range are learned by, in torch's operations."""
    steps = levels[1] - levels[0]
    (low, high), zero_point = _shifted(levels, zero_point)
    beyond = steps / levels[1] if symmetric else 1.0  # of a symmetric grid the upper end is learned by, not the width
    inside = torch.empty_like(x)
    outer, terms = [], []
    for g, source, dx, scales, points in _blocks((gradient, x, inside), (scale, zero_point)):
        values = torch.div(source, scales)
        rounded = torch.round(values)
        _clamp(rounded, low, high, points)
        _clamp(values, low - BOUND, high + BOUND, points)
        apart = rounded - values
        if points is not None:
            values.add_(points)
        # torch's kernel for the gradient of a clamp to numbers: one pass, where comparing and masking takes several
        torch.ops.aten.hardtanh_backward.grad_input(g, values, low - BOUND, high + BOUND, grad_input=dx)
        outside = g - dx
        outer.append(outside.sum_to_size(scales.shape))
        terms.append(apart.mul_(dx).addcmul_(outside, rounded, value=beyond).sum_to_size(scales.shape))
    of_low, of_extent = _joined(outer, scale), _joined(terms, scale)
    if not symmetric:
        of_extent = of_extent - (low if zero_point is None else low - zero_point) * of_low
    return inside, of_low, of_extent / steps


def _clamp(steps: Tensor, low: float, high: float, points: Tensor | None) -> None:
    """Clamp `steps`, which `points` are to be added to, to the ends of a grid."""
    if points is None:
        steps.clamp_(low, high)
    else:  # a maximum and a minimum: clamping between tensors takes several times as long
        torch.maximum(steps, low - points, out=steps)
        torch.minimum(steps, high - points, out=steps)


def _empty_result(x: Tensor) -> Tensor:
    """Memory laid out as `x` is, with the strides that the lowered operations give axes of one element.

    Where those are left as they are, a convolution behind takes another layout than behind the lowered operations, and
    rounds otherwise. What it holds is to be overwritten; after two operations strides stay.
    """
    if torch.compiler.is_compiling() or 1 not in x.shape:
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format) if x.is_contiguous() else x.neg().neg()


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
    if torch.compiler.is_compiling() or first.device.type != "cpu" or first.numel() <= BLOCK * torch.get_num_threads():
        yield (*tensors, *scales)
        return
    size, order = BLOCK * torch.get_num_threads(), by_stride(first)
    if not scale.dim() and is_dense(first):
        for parts in zip(*(tensor.permute(order).view(-1).split(size) for tensor in tensors)):
            yield (*parts, *scales)
    elif scale.dim() and scale.numel() == len(scale) == len(first) and first.is_contiguous():
        rows = max(size // (first.numel() // len(first)), 1)
        cut = [tensor.view(len(first), -1).split(rows) for tensor in (*tensors, *filter(lambda s: s is not None, scales))]
        for parts in zip(*cut):
            yield (*parts, *[None] * scales.count(None))
    else:
        yield (*tensors, *scales)


def _joined(parts: list[Tensor], scale: Tensor | None) -> Tensor:
    """The sums of all blocks, of the shape of `scale`."""
    assert scale is not None
    if len(parts) == 1:
        return parts[0].view(scale.shape)
    return torch.cat(parts).view(scale.shape) if scale.dim() else torch.stack(parts).sum()
