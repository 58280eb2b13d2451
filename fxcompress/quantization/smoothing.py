"""How the channels of an activation are centred and narrowed: what is tried, and which of it loses least.

Wei et al., "Outlier Suppression+", arXiv 2304.09145, equation 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def best_smoothing(bounds: ChannelBounds, layers: Sequence[tuple[Tensor, Tensor]], target: Target) -> Smoothing:
    """The candidate with which the outputs of `layers` lose least.

    Args:
        layers: what each reads, [tokens, channels], and its weight, [outputs, channels].
    """
    exact = [x @ weight.T for x, weight in layers]
    activations, weights = Quantizer(target.activations), [_row_quantizer(target, weight) for _, weight in layers]

    def loss(tried: Smoothing) -> float:
        activations.set_range(tried(bounds.low).min(), tried(bounds.high).max())
        total = 0.0
        for (x, weight), quantizer, wanted in zip(layers, weights, exact):
            scaled = weight * tried.factor
            quantizer.set_range(scaled.amin(1), scaled.amax(1))
            known = 0.0 if tried.shift is None else weight @ tried.shift  # what the bias takes up
            total += (activations(tried(x)) @ quantizer(scaled).T + known - wanted).square().sum().item()
        return total

    return min(_candidates(bounds), key=loss)


def _row_quantizer(target: Target, weight: Tensor) -> Quantizer:
    return Quantizer(replace(target.weights, channel_axis=0), weight.shape)
