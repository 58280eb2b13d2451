"""How the channels of an activation are centred and narrowed: what is tried, and which of it loses least.

Wei et al., "Outlier Suppression+", arXiv 2304.09145, equation 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets import Target

THRESHOLDS = tuple(0.7**step for step in range(10))
"""What is tried for the widest channel that stays as it is, as a share of the widest of all: down to 1/25."""


class ChannelBounds:
    """The lowest and highest value of each channel."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def update(self, x: Tensor) -> None:
        x, reduced = x.float(), tuple(range(x.dim() - 1))
        self.low, self.high = torch.minimum(self.low, x.amin(reduced)), torch.maximum(self.high, x.amax(reduced))

    @classmethod
    def of_all(cls, bounds: Iterable[ChannelBounds]) -> ChannelBounds:
        joined = cls()
        for one in bounds:
            joined.low, joined.high = torch.minimum(joined.low, one.low), torch.maximum(joined.high, one.high)
        return joined


@dataclass(frozen=True)
class Smoothing:
    """What becomes of an activation x: ``(x - shift) / factor``; both ``[channels]``, the shift None for 0."""

    factor: Tensor
    shift: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return (x if self.shift is None else x - self.shift) / self.factor


def _candidates(bounds: ChannelBounds) -> Iterator[Smoothing]:
    """As they are tried, for channels within `bounds`."""
    for shift in (None, (bounds.high + bounds.low) / 2):
        centre = 0.0 if shift is None else shift
        width = torch.maximum(centre - bounds.low, bounds.high - centre)
        widest = width.max().clamp(min=1e-30)
        yield from (Smoothing((width / (widest * share)).clamp(min=1), shift) for share in THRESHOLDS)


ROWS = 256
"""Outputs of a layer that candidates are tried on, at most; those that lose most without smoothing have the best chance."""


@dataclass(frozen=True)
class _Sampled:
    """Some outputs of a layer.

    Attributes:
        x: what the layer reads, [tokens, channels].
        weight: the outputs' rows.
        exact: what they are, [tokens, outputs].
        counts: how many outputs each stands for.
    """

    x: Tensor
    weight: Tensor
    exact: Tensor
    counts: Tensor

    def losses(self, tried: Smoothing, activations: Quantizer, target: Target) -> Tensor:
        """Of each output, over the tokens."""
        scaled = self.weight * tried.factor
        weights = Quantizer(replace(target.weights, channel_axis=0), scaled.shape)
        weights.set_range(scaled.amin(1), scaled.amax(1))
        known = 0.0 if tried.shift is None else self.weight @ tried.shift  # what the bias takes up
        return (activations(tried(self.x)) @ weights(scaled).T + known - self.exact).square().sum(0)

    def most_lossy(self, losses: Tensor) -> _Sampled:
        """About `ROWS` of the outputs, drawn at equal distances on a line where each has a length that grows with its loss."""
        count = len(losses)
        if count <= ROWS:
            return self
        lengths = (losses / losses.sum().clamp(min=1e-30) + 1 / count) * (ROWS / 2)
        drawn = torch.searchsorted(lengths.cumsum(0), torch.arange(ROWS) + 0.5).clamp(max=count - 1)
        rows, times = drawn.unique(return_counts=True)
        return _Sampled(self.x, self.weight[rows], self.exact[:, rows], times / lengths[rows])


def best_smoothing(bounds: ChannelBounds, layers: Sequence[tuple[Tensor, Tensor]], target: Target) -> Smoothing:
    """The candidate with which the outputs of `layers` lose least.

    Args:
        layers: what each reads, [tokens, channels], and its weight, [outputs, channels].
    """
    activations = Quantizer(target.activations)

    def losses(tried: Smoothing, outputs: Sequence[_Sampled]) -> list[Tensor]:
        activations.set_range(tried(bounds.low).min(), tried(bounds.high).max())
        return [one.losses(tried, activations, target) for one in outputs]

    candidates = list(_candidates(bounds))
    whole = [_Sampled(x, weight, x @ weight.T, torch.ones(len(weight))) for x, weight in layers]
    outputs = [one.most_lossy(lost) for one, lost in zip(whole, losses(candidates[0], whole))]

    def loss(tried: Smoothing) -> float:
        return sum(float(lost @ one.counts) for one, lost in zip(outputs, losses(tried, outputs)))

    return min(candidates, key=loss)
