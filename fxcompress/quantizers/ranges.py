"""Range estimators: which range a quantizer gets, from the values that it will see.

An estimator is a choice with its options, as data. For activations it starts a running statistic, which sees all batches
in constant memory; its result depends neither on the order of the samples nor on how they are batched, to the last bit.
For weights it looks at the tensor itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fxcompress.errors import InputError
from fxcompress.options import OneOf
from fxcompress.quantizers import divergence, least_squares
from fxcompress.quantizers.distribution import Distribution
from fxcompress.quantizers.estimator import Estimator, Extremes, Range, Statistic
from fxcompress.quantizers.output_error import OutputError
from fxcompress.quantizers.sampling import sample_extremes, sample_quantiles
from fxcompress.quantizers.spec import QuantizationSpec


@dataclass(frozen=True)
class MinMax(Estimator):
    """The lowest and highest value."""

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return seen.low, seen.high

    def start(self, spec: QuantizationSpec, channels: int | None = None) -> Statistic:
        return Extremes(spec.channel_axis)


@dataclass(frozen=True)
class MeanMinMax(Estimator):
    """The mean over samples of each sample's lowest and highest value: one odd sample does not widen the range.

    A weight counts as one sample.
    """

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return seen.low, seen.high

    def start(self, spec: QuantizationSpec, channels: int | None = None) -> Statistic:
        return _MeanBounds(partial(sample_extremes, axis=spec.channel_axis), spec.channel_axis)


class _MeanBounds:
    """Sums in fractions, which are exact: a float's sum would depend on the order of the samples."""

    def __init__(self, bounds: Callable[[Tensor], Range], axis: int | None):
        self.bounds, self.axis = bounds, axis
        self.sums: list[list[Fraction]] = []  # of the lowest and the highest values, by channel
        self.samples = 0
        self.broken: Range | None = None

    def update(self, x: Tensor) -> None:
        bounds = self.bounds(x)
        if not all(bound.isfinite().all() for bound in bounds):
            self.broken = bounds[0].amin(0), bounds[1].amax(0)
            return
        sums = [[sum(map(Fraction, c), Fraction()) for c in bound.reshape(len(bound), -1).T.tolist()] for bound in bounds]
        self.sums = [[a + b for a, b in zip(*pair)] for pair in zip(self.sums, sums)] if self.sums else sums
        self.samples += len(bounds[0])

    def result(self) -> Range:
        if self.broken:
            return self.broken
        low, high = (torch.tensor([float(total / self.samples) for total in sums]) for sums in self.sums)
        return (low[0], high[0]) if self.axis is None else (low, high)


@dataclass(frozen=True)
class Percentile(Estimator):
    """The values that `low` and `high` percent of all values lie below: the range that the rare ones outside do not widen.

    Attributes:
        low: the share of values below the range, in percent.
        high: the share of values below its end, in percent.

    Raises:
        InputError: not ``0 <= low < high <= 100``.
    """

    low: Annotated[float, Ge(0), Le(100)] = 0.01
    high: Annotated[float, Ge(0), Le(100)] = 99.99

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"the low percentile must be below the high one, got low={self.low}, high={self.high}")

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return seen.quantile(self.low / 100), seen.quantile(self.high / 100)


@dataclass(frozen=True)
class MeanPercentile(Percentile):
    """The mean over samples of the values that `low` and `high` percent of each sample's values lie below.

    A weight counts as one sample.

    Raises:
        InputError: not ``0 <= low < high <= 100``.
    """

    low: Annotated[float, Ge(0), Le(100)] = 0.1
    high: Annotated[float, Ge(0), Le(100)] = 99.9

    def start(self, spec: QuantizationSpec, channels: int | None = None) -> Statistic:
        shares = (self.low / 100, self.high / 100)
        return _MeanBounds(partial(sample_quantiles, axis=spec.channel_axis, shares=shares), spec.channel_axis)


@dataclass(frozen=True)
class ThreeSigma(Estimator):
    """Three standard deviations to either side of the mean, and no further than the values go.

    Beyond lie 0.3% of a normal distribution, and at most 5% of any with one mode (Pukelsheim, "The three sigma rule",
    1994). The median of the absolute deviations, a sturdier measure, is of no use here: it is zero behind a ReLU that
    puts out more than half zeros.
    """

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        mean, deviation = seen.moments()
        low, high = mean - 3 * deviation, mean + 3 * deviation
        return torch.maximum(low, seen.low), torch.minimum(high, seen.high)


@dataclass(frozen=True)
class MeanSquaredError(Estimator):
    """The range whose grid makes the least mean squared error, of rounding and of saturation together."""

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return least_squares.search(seen, spec)


@dataclass(frozen=True)
class Entropy(Estimator):
    """The range whose grid loses the least information: the Kullback-Leibler divergence of the values from the grid's.

    Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        return divergence.search(seen, spec)


ESTIMATORS: dict[str, Estimator] = {
    "min_max": MinMax(),
    "mean_min_max": MeanMinMax(),
    "percentile": Percentile(),
    "mean_percentile": MeanPercentile(),
    "three_sigma": ThreeSigma(),
    "mse": MeanSquaredError(),
    "output_error": OutputError(),
    "entropy": Entropy(),
}
"""The estimators with a name, which stands for their usual options."""

EstimatorName = Annotated[str, OneOf(ESTIMATORS)]


def find_estimator(estimator: str | Estimator) -> Estimator:
    """`estimator` itself, or the one of that name.

    Raises:
        InputError: no estimator has this name.
    """
    if isinstance(estimator, Estimator):
        return estimator
    if estimator not in ESTIMATORS:
        close = difflib.get_close_matches(str(estimator), ESTIMATORS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no range estimator is called {estimator!r}; {hint}there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator]
