"""What a range estimator is: a choice with its options, which looks at a tensor, or starts a running statistic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from fxcompress.options import Declared
from fxcompress.quantizers.distribution import Distribution, Histogram, Values
from fxcompress.quantizers.sampling import extremes, subsample
from fxcompress.quantizers.spec import QuantizationSpec

Range = tuple[Tensor, Tensor]
"""The lowest and highest value to represent: float32, shape ``[]``, or ``[rows]`` with one row a scale."""


class Statistic(Protocol):
    """Sees every calibration batch once, then says the range."""

    def update(self, x: Tensor) -> None:
        """Take note of `x`, whose dimension 0 counts samples."""

    def result(self) -> Range:
        """The range: shape ``[]``, or ``[channels]``. Where a value was NaN or infinite, so is a bound."""


class Estimator(Declared, ABC):
    """Chooses ranges. Subclasses are frozen dataclasses of their options."""

    @abstractmethod
    def fit(self, seen: Distribution, spec: QuantizationSpec) -> Range:
        """The range for values distributed like `seen`, within its extremes, shape ``[rows]``."""

    def fit_values(self, values: Tensor, spec: QuantizationSpec) -> Range:
        """The range for each row of `values`, shape ``[rows, values]``. Where a value is NaN or infinite, so is a bound."""
        seen = Values(values)
        return self.fit(seen, spec) if is_finite(seen) else (seen.low, seen.high)

    def start(self, spec: QuantizationSpec, channels: int | None = None) -> Statistic:
        """A statistic that has seen nothing yet, of a tensor, or of the `channels` of ``spec.channel_axis``."""
        return _Histogrammed(self, spec, channels)


class _Histogrammed:
    """Keeps the extremes of all values, and a histogram of some values of each sample."""

    def __init__(self, estimator: Estimator, spec: QuantizationSpec, channels: int | None):
        self.estimator, self.spec, self.per_tensor = estimator, spec, channels is None
        self.seen = Histogram(channels or 1)

    def update(self, x: Tensor) -> None:
        low, high = extremes(x, self.spec.channel_axis)
        self.seen.update(subsample(x, self.spec.channel_axis), low.reshape(-1), high.reshape(-1))

    def result(self) -> Range:
        low, high = (self.seen.low, self.seen.high)
        if is_finite(self.seen):
            low, high = self.estimator.fit(self.seen, self.spec)
        return (low[0], high[0]) if self.per_tensor else (low, high)


class Extremes:
    """The lowest and highest value: a `Statistic`."""

    def __init__(self, axis: int | None):
        self.axis = axis
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def update(self, x: Tensor) -> None:
        low, high = extremes(x, self.axis)
        # torch.minimum and torch.maximum keep a NaN, so that it is seen in the end.
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def result(self) -> Range:
        return self.low, self.high


def is_finite(seen: Distribution) -> bool:
    """Whether no value was NaN or infinite."""
    return bool(seen.low.isfinite().all() and seen.high.isfinite().all())
