"""How far two runs of a graph agree, in decibels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.inputs import ExampleInputs

ROUNDING_DECIBELS = 80.0
"""A pass that only rounds differently stays above this: about 13 bits, far from any compression's loss."""


@torch.no_grad()
def outputs(model: torch.nn.Module, example: ExampleInputs) -> list[Any]:
    """The outputs of `model` on `example`, flattened."""
    return pytree.tree_leaves(model(*example.args, **example.kwargs))


def sqnr(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``10 log10(sum(reference^2) / sum((reference - other)^2))``.

    Infinite where all values are equal (NaN equals NaN), minus infinite where shape, dtype or a non-finite value differ.
    """
    if reference.shape != other.shape or reference.dtype != other.dtype:
        return float("-inf")
    same = (reference == other) | (reference.isnan() & other.isnan())
    if same.all():
        return float("inf")
    if not reference.dtype.is_floating_point:
        return float("-inf")
    exact, found = reference.detach().double(), other.detach().double()
    signal = exact[exact.isfinite()].square().sum()
    noise = (exact - found)[~same].square().sum()
    return (10 * torch.log10(signal / noise)).item() if noise.isfinite() else float("-inf")


def agreement(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The lowest `sqnr` over all outputs; minus infinity where their number or a non-tensor value differs."""
    if len(before) != len(after):
        return float("-inf")
    return min((_agreement(b, a) for b, a in zip(before, after)), default=float("inf"))


def _agreement(before: Any, after: Any) -> float:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return sqnr(before, after)
    return float("inf") if before == after else float("-inf")


