"""Rounding that can be learned: each integer of a weight is a number between two neighbours until it has settled.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxcompress.quantization.quantizer import Quantizer

ZETA, GAMMA = 1.1, -0.1
"""How far the sigmoid is stretched, so that it reaches 0 and 1 (equation 23)."""

START = 0.5
"""How far a weight starts from its present integer towards the float one."""


class RelaxedWeight:
    """A weight between two neighbouring integers of its grid, elementwise.

    The two are the present integer and its neighbour in the direction of the float weight.

    Args:
        weight: the float one.
        present: the one that is quantized now.
        quantizer: its grid.

    Attributes:
        logits: what is learned, V of the paper, shape of the weight.
    """

    def __init__(self, weight: Tensor, present: Tensor, quantizer: Quantizer):
        self.scale, self.zero_point = quantizer.broadcast(weight.shape)
        self.levels = quantizer.levels
        self.start = quantizer.integers(present)
        wanted = weight / self.scale + self.zero_point
        lower = torch.where(wanted < self.start, self.start - 1, self.start)
        self.lower = torch.where(self.start == self.levels[1], self.levels[1] - 1, lower).clamp(*self.levels)
        share = (self.start + START * (wanted - self.start) - self.lower).clamp(0.01, 0.99)
        self.logits = torch.logit((share - GAMMA) / (ZETA - GAMMA)).requires_grad_()

    def share(self) -> Tensor:
        """h(V), equation 23: 0 stands for the lower of the two integers, 1 for the higher one."""
        return (torch.sigmoid(self.logits) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def value(self) -> Tensor:
        """The weight as it is while it is learned, equation 22."""
        return (self.lower + self.share() - self.zero_point) * self.scale

    def penalty(self, beta: float) -> Tensor:
        """How far from integers the weight is, equation 24, summed; the larger `beta`, the less about the middle matters."""
        return (1 - (2 * self.share() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def settled(self) -> Tensor:
        """The weight on its grid."""
        integers = torch.where(self.share() >= 0.5, self.lower + 1, self.lower)
        return (integers - self.zero_point) * self.scale
