"""Masks that are learned: each zero or one is drawn with a probability that training moves.

After Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312, with
Bernoulli draws and straight-through gradients in place of the paper's stretched distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from fxcompress.ir.estimators import with_gradients_of
from fxcompress.ir.state import outside
from fxcompress.masks.mask import Mask, select_indices

PROBABILITY = 0.99
"""Of each one, at first."""

SHARPNESS = 0.05
"""The difference in density that counts as a loss of 1."""

_DECIDED = 1e4
"""A logit that nothing moves to the other side any more: its slope is zero, and no draw reaches so far."""


class LearnedMask(Mask):
    """Multiplies a weight by zeros and ones: drawn anew in every forward pass of training, the likelier ones otherwise.

    The mask of a forward pass is ``[sigmoid(logits + logit(u)) > 1/2]`` with u uniform in (0, 1): a one with probability
    ``sigmoid(logits)``. Otherwise it is ``[logits > threshold]``, where the threshold of all masks that are learned together is
    such that they have as many zeros as were asked for: half of a million undecided logits may be as little below 0 as the
    other half is, and what they would be by their sign says nothing. As long as fewer zeros are to be expected of a draw than
    are asked for, there are as many as are to be expected.

    Draws come from torch's default generator of the logits' device, mask after mask in the order of the graph. Processes
    that seed it alike (``torch.manual_seed``) and compute the same draw the same masks; in others the masks differ as
    dropout does, and the gradients that are averaged are still those of the expected loss. Outside training masks depend
    on the logits alone, which `DistributedDataParallel` keeps equal.

    Args:
        shape: of the weight.
        learning_rate_multiplier: of the gradients of the logits.

    Attributes:
        logits: a parameter of this shape.
        threshold: what the logits of ones are above outside training, as they were when training was left.
        asked: the share of zeros that is asked for.
        group: the masks that are learned together with this one.
    """

    logits: nn.Parameter
    threshold: Tensor
    asked: Tensor

    def __init__(self, shape: Sequence[int], learning_rate_multiplier: float = 1.0):
        nn.Module.__init__(self)
        self.learning_rate_multiplier = learning_rate_multiplier
        self.logits = nn.Parameter(torch.full(tuple(shape), math.log(PROBABILITY / (1 - PROBABILITY))))
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("asked", torch.tensor(0.0))
        self.group = MaskGroup([self])

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        return outside(state, "asked", 0, 1)

    @property
    def mask(self) -> Tensor:  # type: ignore[override]
        """The zeros and ones outside training."""
        return (self.logits > self.threshold).to(self.logits.dtype)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not mode:
            self.settle()
        return self

    def settle(self) -> None:
        """Choose the zeros and ones outside training anew, of all masks that are learned together."""
        self.group.settle()

    def draw(self) -> Tensor:
        """Zeros and ones as training draws them, through which gradients reach the logits."""
        margin = max(1e-6, torch.finfo(self.logits.dtype).eps)
        uniform = torch.rand_like(self.logits).clamp(margin, 1 - margin)
        probability = torch.sigmoid(self.logits + torch.logit(uniform))
        return with_gradients_of((probability > 0.5).to(probability.dtype), probability * self.learning_rate_multiplier)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.draw() if self.training else self.mask)

    def narrowed(self, kept: Mapping[int, Tensor]) -> LearnedMask:
        if not kept:
            return self
        logits = select_indices(self.logits.detach(), kept)
        twin = LearnedMask(logits.shape, self.learning_rate_multiplier)
        twin.training = self.training
        twin.logits = nn.Parameter(logits, self.logits.requires_grad)
        twin.threshold, twin.asked = self.threshold.clone(), self.asked.clone()
        twin.group.settled = twin.group.state()  # it is the same mask, of fewer weights
        return twin

    @torch.no_grad()
    def freeze(self) -> None:
        """Make the mask outside training that of training as well, for good."""
        self.logits.copy_(torch.where(self.mask > 0, _DECIDED, -_DECIDED))
        self.threshold.zero_()


class MaskGroup:
    """Masks that are learned together, and have one threshold."""

    def __init__(self, masks: Sequence[LearnedMask]):
        self.masks = list(masks)
        self.settled: object = None
        for mask in self.masks:
            mask.group = self

    def ask(self, share: float) -> None:
        """Ask for this share of zeros."""
        for mask in self.masks:
            mask.asked.fill_(share)

    def zeros(self) -> float:
        """The share of zeros outside training."""
        self.settle()
        count = sum(mask.logits.numel() for mask in self.masks)
        return sum(int((mask.mask == 0).sum()) for mask in self.masks) / max(count, 1)

    @torch.no_grad()
    def expected(self) -> float:
        """The share of zeros to be expected of a draw."""
        ones = sum(float(mask.logits.sigmoid().sum()) for mask in self.masks)
        return 1 - ones / max(sum(mask.logits.numel() for mask in self.masks), 1)

    def state(self) -> object:
        """What tells whether logits have changed."""
        return [(mask.logits.data_ptr(), mask.logits._version, float(mask.asked)) for mask in self.masks]

    @torch.no_grad()
    def settle(self) -> None:
        """Set the threshold by the logits as they are."""
        if self.settled == (state := self.state()) or not self.masks or self.masks[0].logits.device.type == "meta":
            return
        expected, asked = self.expected(), float(self.masks[0].asked)
        share = asked if expected >= asked - SHARPNESS else expected
        threshold = _threshold(torch.cat([mask.logits.flatten().float().cpu() for mask in self.masks]), share)
        for mask in self.masks:
            mask.threshold.fill_(threshold)
        self.settled = state


def _threshold(logits: Tensor, share: float) -> float:
    """What the share `share` of `logits` is not above, as nearly as equal ones allow."""
    count = round(share * len(logits))
    if not count:
        return torch.finfo(torch.float32).min  # no state is infinite, as none is that was damaged
    at = float(logits.kthvalue(count).values)
    below = float(torch.nextafter(torch.tensor(at), torch.tensor(-math.inf)))
    return min(at, below, key=lambda one: abs(int((logits <= one).sum()) - count))


def density_loss(masks: Iterable[Tensor], density: float) -> Tensor:
    """``((ones / elements - density) / 0.05)^2``, over all `masks`, of zeros and ones, together."""
    found = list(masks)
    share = torch.stack([mask.sum() for mask in found]).sum() / sum(mask.numel() for mask in found)
    return ((share - density) / SHARPNESS).square()
