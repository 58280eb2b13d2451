"""The search for the range with the least mean squared error.

The error falls and rises again as the range shrinks: rounding errs less, saturation more. So a few ranges are tried over
all orders of size, then more of them around the best: for both ends together, and, where the zero point can move, for
each end alone. The widest range is among them, so the result is never worse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxcompress.quantizers.distribution import Distribution
from fxcompress.quantizers.spec import QuantizationSpec

COARSE = [2 ** (-step / 3) for step in range(1, 25)]
"""Factors below 1, down to 1/256."""

FINE = [2 ** (step / 24) for step in range(-8, 9) if step]
"""Factors around 1 that fill the gaps between two coarse ones."""


def search(seen: Distribution, spec: QuantizationSpec) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of the best range found for `seen`, shape ``[rows]``, within its extremes and zero."""
    together = _Best(seen, spec)
    together.improve(COARSE)
    if spec.symmetric or not ((together.low < 0) & (together.high > 0)).any():
        together.improve(FINE)
        return together.low, together.high
    # Values may be spread alike to both sides, or to one side alone: whichever end moves first may go astray.
    starts = [(together, False), (_Best(seen, spec), False), (_Best(seen, spec), True)]
    for start, low_first in starts:
        for factors in (COARSE, FINE):
            start.improve(factors, move_low=low_first, move_high=not low_first)
            start.improve(factors, move_low=not low_first, move_high=low_first)
    error, low, high = (torch.stack([getattr(start, name) for start, _ in starts]) for name in ("error", "low", "high"))
    least = error.argmin(0, keepdim=True)
    return low.gather(0, least)[0], high.gather(0, least)[0]


class _Best:
    """The best range so far, row by row."""

    def __init__(self, seen: Distribution, spec: QuantizationSpec):
        self.seen, self.spec = seen, spec
        self.low = self.lowest = seen.low.clamp(max=0.0)
        self.high = self.highest = seen.high.clamp(min=0.0)
        self.signed = spec.is_signed(self.low)
        _, self.error = self._measure(self.low, self.high)

    def improve(self, factors: list[float], move_low: bool = True, move_high: bool = True) -> None:
        """Try the range with its ends, or one of them, multiplied by each of `factors`, and keep what is better.

        As the range shrinks, by `COARSE`, saturation errs more and more. It makes all of the error but what rounding does, a
        quarter of a squared step at most: where that alone is more than the best, no smaller range is better.
        """
        before = self.low, self.high
        for factor in factors:
            low = torch.maximum(before[0] * factor, self.lowest) if move_low else before[0]
            high = torch.minimum(before[1] * factor, self.highest) if move_high else before[1]
            scale, error = self._measure(low, high)
            better = error < self.error
            self.low, self.high = torch.where(better, low, self.low), torch.where(better, high, self.high)
            self.error = torch.where(better, error, self.error)
            if factors is COARSE and (error - scale.square() / 4 > self.error).all():
                break

    def _measure(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The step, and the mean squared error."""
        scale, zero_point = self.spec.fit(low, high, self.signed)
        return scale, self.seen.squared_error(scale, zero_point, self.spec.levels(self.signed))
