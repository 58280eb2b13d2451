"""`FakeQuantize` on GPUs in Triton: one read and one write of each tensor, forward and backward.

Sums are added up block by block and then over blocks, in an order that does not depend on how the GPU schedules them: the
gradients of ranges are the same in every run. Nothing is read back by the host, so that CUDA graphs can hold a step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fxcompress.quantizers.layout import around_scales, is_dense

BLOCK = 2048
"""Elements that one program works on."""

TYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What is rounded; it is computed in float32."""

_TO_INTEGER = tl.constexpr(1.5 * 2**23)
"""Added to a float32 between -2^22 and 2^22 it leaves no place for a fraction: the sum is rounded half to even."""


@triton.jit
def _within(value, least, most):
    """`value` clamped to `least` and `most`; NaN for NaN."""
    value = tl.where(value < least, least, value)
    return tl.where(value > most, most, value)


@triton.jit
def _nearest(level, bottom, top):
    """The integer of `bottom` to `top`, both integers, that is nearest to `level`; NaN for NaN."""
    return (_within(level, bottom, top) + _TO_INTEGER) - _TO_INTEGER


@triton.jit
def _forward(
    x, y, scale, zero_point, count, channels, inner, low, high, least, most, has_point: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exists = place < count
    channel = place // inner % channels
    step = tl.load(scale + channel, exists, 1.0)
    point = tl.load(zero_point + channel, exists, 0.0) if has_point else 0.0
    value = _within(tl.load(x + place, exists, 0.0).to(tl.float32), least, most)
    integer = _nearest(tl.div_rn(value, step), low - point, high - point)
    tl.store(y + place, (integer * step).to(y.dtype.element_ty), exists)


@triton.jit
def _backward(
    g, x, dx, scale, zero_point, sums, outer, channels, inner, blocks, low, high, slack, beyond, least, most,
    has_point: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    channel, index = program // blocks, program % blocks * block + tl.arange(0, block)
    exists = index < outer * inner
    place = (index // inner * channels + channel) * inner + index % inner
    step = tl.load(scale + channel)
    point = tl.load(zero_point + channel) if has_point else 0.0
    bottom, top = low - point, high - point
    gradient = tl.load(g + place, exists, 0.0).to(tl.float32)
    value = tl.load(x + place, exists, 0.0).to(tl.float32)
    level = tl.div_rn(_within(value, least, most), step)
    lowest, highest = bottom - slack, top + slack
    inside = tl.where((level <= lowest) | (level >= highest), 0.0, gradient)
    outside = gradient - inside
    integer = _nearest(level, bottom, top)
    level = _within(level, lowest, highest)
    at_an_end = ((value <= least) & (least > -float("inf"))) | ((value >= most) & (most < float("inf")))
    passed = tl.where(at_an_end, 0.0, inside)
    tl.store(dx + place, passed.to(dx.dtype.element_ty), exists)
    terms = tl.where(exists, inside * (integer - level) + outside * (integer * beyond), 0.0)
    tl.store(sums + 2 * program, tl.sum(outside, 0))
    tl.store(sums + 2 * program + 1, tl.sum(terms, 0))


class TritonKernel:
    """The functions above, for tensors that fill a stretch of memory, with one scale or one for each index of an axis."""

    def takes(self, x: Tensor, scale: Tensor) -> bool:
        """Whether the functions can be called with these, and a zero point as `scale` is."""
        return x.dtype in TYPES and is_dense(x) and around_scales(x, scale) is not None

    def forward(
        self,
        x: Tensor,
        result: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        within: tuple[float, float],
    ) -> None:
        _, channels, inner = _around(x, scale)
        point = scale if zero_point is None else zero_point
        grid = (triton.cdiv(x.numel(), BLOCK),)
        _forward[grid](
            x, result, scale, point, x.numel(), channels, inner,
            *map(float, levels), *within, zero_point is not None, BLOCK,
        )  # fmt: skip

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        slack: float,
        symmetric: bool,
        within: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of `x`, and of what the lower end and the extent of the range are learned by."""
        (low, high), steps = levels, levels[1] - levels[0]
        outer, channels, inner = _around(x, scale)
        blocks = triton.cdiv(outer * inner, BLOCK)
        inside, sums = torch.empty_like(x), x.new_empty(channels, blocks, 2, dtype=torch.float32)
        point, beyond = scale if zero_point is None else zero_point, steps / high if symmetric else 1.0
        _backward[(channels * blocks,)](
            gradient, x, inside, scale, point, sums, outer, channels, inner, blocks,
            float(low), float(high), slack, float(beyond), *within, zero_point is not None, BLOCK,
        )  # fmt: skip
        of_low, terms = (sums.sum(1, dtype=torch.float64)).unbind(1)
        if not symmetric:
            bottom = low if zero_point is None else low - zero_point.flatten()
            terms = terms - bottom * of_low
        shaped = scale.shape
        return inside, of_low.to(scale.dtype).view(shaped), (terms / steps).to(scale.dtype).view(shaped)


def _around(x: Tensor, scale: Tensor) -> tuple[int, int, int]:
    around = around_scales(x, scale)
    assert around is not None  # `takes` has asked
    return around
