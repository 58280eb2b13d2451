"""Ranges chosen by what they cost at the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from fxcompress.quantizers import least_squares
from fxcompress.quantizers.distribution import Beyond, Distribution, Histogram
from fxcompress.quantizers.estimator import Estimator, Range, is_finite
from fxcompress.quantizers.sampling import sample_extremes, subsample, subsample_with_extremes
from fxcompress.quantizers.spec import QuantizationSpec

CAUTION = 2.0
"""How many times what it costs on the samples saturation counts: values that none of them had lie farther out."""


@dataclass(frozen=True)
class OutputError(Estimator):
    """The range whose grid makes the least squared error in the model's outputs.

    The squared error of an element, of rounding and of saturation alike, counts as much as the outputs owe to that element:
    by the square of its gradient, which `Calibrate` finds (`fxcompress.execution.gradients`). The extremes of every sample are
    among the elements. Where no output has a gradient, the range is that of `MinMax`. A weight comes without gradients: its
    errors count alike, as for `MeanSquaredError`.
    """

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return least_squares.search(seen, spec)

    def start(self, spec: QuantizationSpec, channels: int | None = None) -> WeighedStatistic:
        return WeighedStatistic(self, spec, channels)


class WeighedStatistic:
    """Keeps how often each value occurs in all samples, and what errors of those that come with gradients count.

    What it is told by several places, which share a quantizer, adds up.
    """

    def __init__(self, estimator: Estimator, spec: QuantizationSpec, channels: int | None):
        self.estimator, self.spec, self.per_tensor = estimator, spec, channels is None
        self.seen, self.weighed, self.relevance = (Histogram(channels or 1, weighted=True) for _ in range(3))
        self.tails: list[tuple[Tensor, Tensor]] = []
        self.reach: list[Range] = []  # of each sample
        self.found: Range | None = None
        self.known: Distribution | None = None

    def update(self, x: Tensor) -> None:
        self.found = self.known = None
        lowest, highest = sample_extremes(x, self.spec.channel_axis)
        self.reach.append((lowest, highest))
        low, high = lowest.amin(0).reshape(-1), highest.amax(0).reshape(-1)
        taken, ends = subsample(x, self.spec.channel_axis), torch.cat([lowest, highest]).reshape(2 * len(lowest), -1).T
        each = x.numel() / taken.numel()  # values of the sample that one of those taken stands for
        self.seen.update(taken, low, high, each)
        if each > 1:
            self.seen.update(ends, low, high)

    def weigh(self, x: Tensor, gradient: Tensor) -> None:
        """Take note of what the outputs owe to `x`, the last it was told: a `gradient`, of a random combination of them."""
        self.found = self.known = None
        lowest, highest = self.reach[-1]
        if not (lowest.isfinite().all() and highest.isfinite().all()):
            return  # an error, which the range tells
        low, high = lowest.amin(0).reshape(-1), highest.amax(0).reshape(-1)
        if self.per_tensor:
            found = subsample_with_extremes(x, gradient, signed=bool(low < 0))
            values, slopes, count = found.values[None], found.others[None], found.count[None]
            self.tails.append((found.tails[0], found.tails[1].nan_to_num(0.0, 0.0, 0.0)))
        else:
            values, slopes = (subsample(tensor, self.spec.channel_axis) for tensor in (x, gradient))
            count = torch.ones_like(values)
        self.weighed.update(values, low, high, count)
        self.relevance.update(values, low, high, slopes.nan_to_num(0.0, 0.0, 0.0).square() * count)

    def result(self) -> Range:
        if self.found is None:
            fits = self.informed and is_finite(self.seen)
            self.found = self._shaped(self.estimator.fit(self.errors, self.spec)) if fits else self.extremes
        return self.found

    def rival(self, estimator: Estimator) -> Range:
        """The range that `estimator` gives to the same values."""
        return estimator.fit(self.seen, self.spec)

    @property
    def extremes(self) -> Range:
        """The lowest and the highest value."""
        return self._shaped((self.seen.low, self.seen.high))

    def _shaped(self, rows: Range) -> Range:
        low, high = rows
        return (low[0], high[0]) if self.per_tensor else rows

    @property
    def informed(self) -> bool:
        """Whether the outputs owe anything to the values."""
        return bool((self.relevance.counts.sum(1) > 0).all())

    def witnesses(self, chosen: Range) -> float:
        """The share of the samples that have values beyond `chosen`, on whichever of its narrowed sides has fewer."""
        low, high = (torch.cat(bounds) for bounds in zip(*self.reach))
        lowest, highest = self.extremes
        sides = [
            ((low < chosen[0]), chosen[0] > lowest.clamp(max=0.0)),
            ((high > chosen[1]), chosen[1] < highest.clamp(min=0.0)),
        ]
        shares = [beyond.float().mean(0)[narrowed].mean().item() for beyond, narrowed in sides if narrowed.any()]
        return min(shares, default=0.0)

    def cost(self, chosen: Range) -> float:
        """The energy of the outputs' error, summed over samples weighed, if nothing but this quantizer rounded: an estimate.

        Args:
            chosen: the range.
        """
        low, high = (bound.reshape(-1) for bound in chosen)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        signed = self.spec.is_signed(low)
        errors = self.errors.squared_error(*self.spec.fit(low, high, signed), self.spec.levels(signed))
        return float((errors * self.relevance.counts.sum(1)).sum())

    @property
    def errors(self) -> Distribution:
        """What is to be made small."""
        if self.known is None:
            relevance = self.relevance.reaching(self.seen.low, self.seen.high)  # to the ends of all values, weighed or not
            self.known = _Errors(relevance, self.weighed, self.seen, self.tails) if self.tails else relevance
        return self.known


class _Errors:
    """The values weighed, whose errors count by their relevance; but those of saturation, of one sample, together.

    Errors of rounding are as often up as down, and independent. Those of saturation all point inwards: in a channel that
    stands out, whose values the outputs use alike, they add up. The square of the sum of their gradients times their errors is,
    in the mean over signs, the energy that they make together.

    It takes many samples to tell how often a value lies far out: so many times as much as in those weighed saturation counts
    as values in all samples lie farther beyond, by their squares; as much as rounding where no value weighed does.
    """

    def __init__(self, relevance: Histogram, weighed: Histogram, seen: Histogram, tails: Sequence[tuple[Tensor, Tensor]]):
        self.relevance, self.low, self.high = relevance, relevance.low, relevance.high
        self.weighed, self.seen = Beyond(weighed), Beyond(seen)
        self.quantile, self.moments, self.magnitudes = relevance.quantile, relevance.moments, relevance.magnitudes
        width = max(values.shape[1] for values, _ in tails)
        padded = [[pad(one, (0, width - one.shape[1])) for one in tail] for tail in tails]
        self.values, self.slopes = (torch.cat(parts) for parts in zip(*padded))

    def squared_error(self, scale: Tensor, zero_point: Tensor, levels: tuple[int, int]) -> Tensor:
        low, high = ((level - zero_point) * scale for level in levels)
        alone = (self.values - self.values.clamp(low, high)) * self.slopes
        together, apart = (found.sum() / self.relevance.counts.sum() for found in (alone.sum(1).square(), alone.square()))
        within, seen = self.weighed.squared(low, high), self.seen.squared(low, high)
        saturation = torch.where(within > 0, torch.maximum(together, apart) * seen / within, seen)
        rounding = self.relevance.squared_error(scale, zero_point, levels) - apart  # which it counts as well
        return rounding + CAUTION * saturation
