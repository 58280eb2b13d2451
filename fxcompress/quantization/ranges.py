"""Range estimators: what a quantizer's range is, from values that stream by.

Statistics are kept per sample (index of dimension 0), so that they do not depend on how samples are batched, and take
constant memory.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class RangeEstimator(Protocol):
    """Sees every calibration batch once, then says the range."""

    def update(self, x: Tensor) -> None:
        """Take note of `x`, whose dimension 0 counts samples."""

    def result(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value to represent, float scalars."""


class MinMax:
    """The lowest and highest value seen."""

    def __init__(self) -> None:
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))

    def update(self, x: Tensor) -> None:
        lows, highs = sample_bounds(x)
        # torch.minimum and torch.maximum keep a NaN, so that it is seen in the end.
        self.low = torch.minimum(self.low, lows.amin())
        self.high = torch.maximum(self.high, highs.amax())

    def result(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class MeanMinMax:
    """The mean over samples of each sample's lowest and highest value: one odd sample does not widen the range."""

    def __init__(self) -> None:
        self.low = self.high = torch.tensor(0.0, dtype=torch.float64)
        self.samples = 0

    def update(self, x: Tensor) -> None:
        lows, highs = sample_bounds(x)
        self.low = self.low + lows.double().sum()
        self.high = self.high + highs.double().sum()
        self.samples += len(lows)

    def result(self) -> tuple[Tensor, Tensor]:
        return (self.low / self.samples).float(), (self.high / self.samples).float()


def sample_bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest value of each sample of `x`: two float32 tensors of shape ``[x.shape[0]]``."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.movedim(1, -1)  # the order in memory: a reduction over strided memory takes ten times as long
    # One sample at a time: torch.aminmax over one dimension takes twenty times as long as over a whole tensor.
    bounds = [torch.aminmax(sample) for sample in (x if x.dim() else x.reshape(1))]
    return torch.stack([b.min for b in bounds]).float(), torch.stack([b.max for b in bounds]).float()


ESTIMATORS: dict[str, type[MinMax] | type[MeanMinMax]] = {"min_max": MinMax, "mean_min_max": MeanMinMax}
