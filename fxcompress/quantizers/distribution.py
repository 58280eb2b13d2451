"""What range estimators know of the values they serve: the values themselves, or a histogram of them.

Everything is by row: one row a scale.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """Values of known extremes.

    Attributes:
        low, high: the lowest and highest value, shape ``[rows]``.
    """

    low: Tensor
    high: Tensor

    def quantile(self, share: float) -> Tensor:
        """The value that this share (0 to 1) of the values lies below, shape ``[rows]``."""

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, shape ``[rows]``."""

    def squared_error(self, scale: Tensor, zero_point: Tensor, levels: tuple[int, int]) -> Tensor:
        """Mean of the squared errors that this grid makes, shape ``[rows]``; scale and zero point have that shape."""

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        """Counts of absolute values in equal bins from zero, ``[rows, bins]``, and the width of a bin, ``[rows]``."""


class Values:
    """The values themselves, shape ``[rows, values]``."""

    def __init__(self, values: Tensor):
        self.values = values.float()
        self.low, self.high = self.values.amin(1), self.values.amax(1)

    def quantile(self, share: float) -> Tensor:
        """With a linear interpolation between neighbours."""
        ascending = self.values.sort(1).values
        place = share * (ascending.shape[1] - 1)
        below, above = ascending[:, int(place)], ascending[:, min(int(place) + 1, ascending.shape[1] - 1)]
        return torch.lerp(below, above, place % 1)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.values.mean(1), self.values.std(1, correction=0)

    def squared_error(self, scale: Tensor, zero_point: Tensor, levels: tuple[int, int]) -> Tensor:
        scale, zero_point = scale[:, None], zero_point[:, None]
        steps = torch.div(self.values, scale).round_().add_(zero_point).clamp_(*levels)
        return steps.sub_(zero_point).mul_(scale).sub_(self.values).square_().mean(1)

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        histogram = Histogram(len(self.values), MANY)  # whatever the number of rows: a row is to count as it does alone
        histogram.update(self.values, self.low, self.high)
        return histogram.magnitudes()


class Histogram:
    """Counts of values that stream by, in bins that depend neither on their order nor on how they are batched.

    A row has a fixed number of bins on each side of zero, as wide as the least power of two with which they hold every
    value. When the range grows, the width doubles and neighbours are merged; all of that is exact.

    Args:
        rows: number of rows.
        side: number of a row's bins on each side of zero; 4096 for one row, 512 for each of several, unless told otherwise.
        weighted: values come with weights, whose sums are counted; these are exact only as far as floats are.
    """

    def __init__(self, rows: int = 1, side: int | None = None, weighted: bool = False):
        self.side = side or (SINGLE if rows == 1 else MANY)
        self.counts = torch.zeros(rows, 2 * self.side, dtype=torch.float64 if weighted else torch.int64)
        self.exponent = torch.full((rows,), _LEAST_EXPONENT)  # all values are below 2 ** exponent in size
        self.low = torch.full((rows,), torch.inf)
        self.high = torch.full((rows,), -torch.inf)

    def reaching(self, low: Tensor, high: Tensor) -> Histogram:
        """The same counts, of values of which others that were not counted lie between `low` and `high`, (rows,)."""
        reaching = copy.copy(self)
        reaching.low, reaching.high = low, high
        return reaching

    def update(self, values: Tensor, low: Tensor, high: Tensor, weights: Tensor | float = 1) -> None:
        """Count `values`, ``[rows, values]``, which lie between `low` and `high`, ``[rows]``, as may others uncounted.

        Each counts as often as its weight says, or all of them as often.

        Values that are not finite are not counted, but stay in the extremes.
        """
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)  # these keep a NaN
        if not (self.low.isfinite().all() and self.high.isfinite().all()):
            return
        largest = torch.maximum(-low, high)
        self._widen(largest.frexp().exponent.where(largest > 0, _LEAST_EXPONENT))
        bins = values.mul((1 / self.width)[:, None]).floor_().int()
        bins += torch.arange(self.side, self.counts.numel(), self.counts.shape[1], dtype=torch.int32)[:, None]
        each, alike = (weights.double().flatten(), 1) if isinstance(weights, Tensor) else (None, weights)
        counted = torch.bincount(bins.flatten(), each, minlength=self.counts.numel())
        self.counts += counted.view_as(self.counts) * alike

    def _widen(self, exponent: Tensor) -> None:
        wider = torch.maximum(self.exponent, exponent)
        if (doublings := (wider - self.exponent).clamp(max=62)).any():
            merged = ((torch.arange(2 * self.side) - self.side) >> doublings[:, None]) + self.side
            self.counts = torch.zeros_like(self.counts).scatter_add_(1, merged, self.counts)
            self.exponent = wider

    @property
    def middles(self) -> Tensor:
        """The middle of each bin, ``[rows, bins]``."""
        return (torch.arange(2 * self.side, dtype=torch.float64) - self.side + 0.5) * self.width[:, None]

    @property
    def width(self) -> Tensor:
        """Width of the bins, ``[rows]``: powers of two."""
        return torch.pow(2.0, self.exponent.double()).div(self.side).float()

    def quantile(self, share: float) -> Tensor:
        """As if the values of a bin were spread evenly over it."""
        below = self.counts.cumsum(1).double()
        sought = share * below[:, -1:]
        bins = torch.searchsorted(below, sought).clamp(max=2 * self.side - 1)
        count = self.counts.gather(1, bins).double()
        inside = (sought - (below.gather(1, bins) - count)) / count.clamp(min=1)
        found = ((bins - self.side + inside) * self.width[:, None].double()).float().squeeze(1)
        return torch.minimum(torch.maximum(found, self.low), self.high)

    def moments(self) -> tuple[Tensor, Tensor]:
        middles, share = self.middles, self.counts / self.counts.sum(1, keepdim=True)
        mean = (share * middles).sum(1, keepdim=True)
        deviation = (share * (middles - mean).square()).sum(1).sqrt()
        return mean.squeeze(1).float(), deviation.float()

    def squared_error(self, scale: Tensor, zero_point: Tensor, levels: tuple[int, int]) -> Tensor:
        """Exact for values spread evenly over their bin, however narrow the steps of the grid are.

        In steps, a value u that becomes the integer q has the error r = u - q, and the integral of r * r from zero to u
        is q / 12 + r ** 3 / 3, beyond the ends of the grid as well. A bin's error is what that gains from edge to edge.
        """
        first, last = self._used()
        scale, zero_point = scale.double()[:, None], zero_point.double()[:, None]
        width = self.width.double()[:, None]
        edges = (torch.arange(first, last + 1, dtype=torch.float64) - self.side) * (width / scale)
        lowest, highest = levels
        steps = edges.round().add_(zero_point).clamp_(lowest, highest).sub_(zero_point)
        integral = edges.sub_(steps).pow_(3).div_(3).add_(steps, alpha=1 / 12)
        errors = (integral.diff(dim=1) * self.counts[:, first:last]).sum(1, keepdim=True) * scale**3 / width
        return (errors / self.counts.sum(1, keepdim=True)).squeeze(1)

    def _used(self) -> tuple[int, int]:
        """The span of the bins that hold a value in any row."""
        used = self.counts.any(0).nonzero()
        return int(used[0]), int(used[-1]) + 1

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        return self.counts[:, self.side :] + self.counts[:, : self.side].flip(1), self.width


class Beyond:
    """How far the values that `histogram` has counted so far lie beyond bounds, as if each were in the middle of its bin."""

    def __init__(self, histogram: Histogram):
        first, last = histogram._used()
        self.middles, self.counts = histogram.middles[:, first:last], histogram.counts[:, first:last]
        self.total = histogram.counts.sum(1)

    def squared(self, low: Tensor, high: Tensor) -> Tensor:
        """Mean of the squares of the distances from `low` and `high`, ``[rows]``; 0 within them."""
        beyond = self.middles - self.middles.clamp(low.double()[:, None], high.double()[:, None])
        return (beyond.square_() * self.counts).sum(1) / self.total


SINGLE, MANY = 4096, 512
"""Bins on each side of zero, of the one row of a histogram and of each of several."""

_LEAST_EXPONENT = -100
"""Smaller values are counted in the innermost bins, whose width must stay a float32 with an inverse."""
