"""Masks that are learned: each zero or one is drawn with a probability that training moves.

After Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312, with
Bernoulli draws and straight-through gradients in place of the paper's stretched distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fxcompress.masks.mask import Mask, select_indices

PROBABILITY = 0.99
"""Of each one, at first."""

SHARPNESS = 0.05
"""The difference in density that counts as a loss of 1."""

_DECIDED = 1e4
"""A logit that nothing moves to the other side any more: its slope is zero, and no draw reaches so far."""


class _Step(torch.autograd.Function):
    """1 above one half, else 0; the gradient passes, times a multiplier (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx, probability: Tensor, multiplier: float) -> Tensor:
        ctx.multiplier = multiplier
        return (probability > 0.5).to(probability.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.multiplier, None


class LearnedMask(Mask):
    """Multiplies a weight by zeros and ones: drawn anew in every forward pass of training, the likelier ones otherwise.

    The mask of a forward pass is ``[sigmoid(logits + logit(u)) > 1/2]`` with u uniform in (0, 1): a one with probability
    ``sigmoid(logits)``. Otherwise it is ``[logits > 0]``.

    Draws come from torch's default generator of the logits' device, mask after mask in the order of the graph. Processes
    that seed it alike (``torch.manual_seed``) and compute the same draw the same masks; in others the masks differ as
    dropout does, and the gradients that are averaged are still those of the expected loss. Outside training masks depend
    on the logits alone, which `DistributedDataParallel` keeps equal.

    Args:
        shape: of the weight.
        learning_rate_multiplier: of the gradients of the logits.

    Attributes:
        logits: a parameter of this shape.
    """

    def __init__(self, shape: Sequence[int], learning_rate_multiplier: float = 1.0):
        nn.Module.__init__(self)
        self.learning_rate_multiplier = learning_rate_multiplier
        self.logits = nn.Parameter(torch.full(tuple(shape), math.log(PROBABILITY / (1 - PROBABILITY))))

    @property
    def mask(self) -> Tensor:  # type: ignore[override]
        """The zeros and ones outside training."""
        return (self.logits > 0).to(self.logits.dtype)

    def draw(self) -> Tensor:
        """Zeros and ones as training draws them, through which gradients reach the logits."""
        margin = max(1e-6, torch.finfo(self.logits.dtype).eps)
        uniform = torch.rand_like(self.logits).clamp(margin, 1 - margin)
        return _Step.apply(torch.sigmoid(self.logits + torch.logit(uniform)), self.learning_rate_multiplier)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.draw() if self.training else self.mask)

    def narrowed(self, kept: Mapping[int, Tensor]) -> LearnedMask:
        if not kept:
            return self
        logits = select_indices(self.logits.detach(), kept)
        twin = LearnedMask(logits.shape, self.learning_rate_multiplier).train(self.training)
        twin.logits = nn.Parameter(logits, self.logits.requires_grad)
        return twin

    @torch.no_grad()
    def freeze(self) -> None:
        """Make the mask outside training that of training as well, for good."""
        self.logits.copy_(torch.where(self.logits > 0, _DECIDED, -_DECIDED))


def density_loss(masks: Iterable[Tensor], density: float) -> Tensor:
    """``((ones / elements - density) / 0.05)^2``, over all `masks`, of zeros and ones, together."""
    found = list(masks)
    share = torch.stack([mask.sum() for mask in found]).sum() / sum(mask.numel() for mask in found)
    return ((share - density) / SHARPNESS).square()
