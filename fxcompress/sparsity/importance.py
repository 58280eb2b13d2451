"""Which weights are the least important, one by one: of all layers together, of each, or of every few in a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxcompress.errors import InputError

CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude": lambda weight: weight.abs(),
    "normalized": lambda weight: weight.abs() / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny),
}
"""The importance of each element of a weight: ``|w|``, or ``|w| / ||w||_2`` with the norm of the whole weight."""


def lowest(scores: Sequence[Tensor], level: float) -> list[Tensor]:
    """The share `level` of all elements of `scores` that is lowest, rounded to a whole number of them: bool, a tensor each.

    Of equal ones the first are taken.
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    count = round(level * len(flat))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(count).values
        chosen = flat < threshold
        chosen[(flat == threshold).nonzero()[: count - int(chosen.sum())]] = True
    return [part.view(score.shape) for part, score in zip(chosen.split([score.numel() for score in scores]), scores)]


@dataclass(frozen=True)
class Pattern:
    """`kept` of every `group` consecutive inputs stay: 2:4 is what the tensor cores of NVIDIA GPUs skip zeros of."""

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Of ``"2:4"``.

        Raises:
            InputError: it is no such text, or keeps none or all.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise InputError(f'a pattern is like "2:4", which keeps 2 of every 4 consecutive inputs, not {text!r}')
        return cls(int(match[1]), int(match[2]))

    def fits(self, size: int) -> bool:
        """Whether so many inputs divide into groups."""
        return size % self.group == 0

    def zeros(self, scores: Tensor, axis: int) -> Tensor:
        """Which elements are not among the highest of their group along `axis`: bool, of the shape of `scores`."""
        groups = scores.movedim(axis, -1).unflatten(-1, (-1, self.group))
        lowest = groups.argsort(dim=-1, stable=True)[..., : self.group - self.kept]
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, lowest, True)
        return chosen.flatten(-2).movedim(-1, axis)
