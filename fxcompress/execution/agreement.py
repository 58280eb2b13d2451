"""How well the outputs of two models agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.returned import put_together


@torch.no_grad()
def outputs(model: torch.nn.Module, example: ExampleInputs) -> list[Any]:
    """The outputs of `model` on a copy of `example`, flattened as those of a graph of it are."""
    given = example.copy()
    return pytree.tree_leaves(put_together(model(*given.args, **given.kwargs)))


def sqnr(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``10 log10(sum(reference^2) / sum((reference - other)^2))``.

    Infinite where all values are equal (NaN equals NaN), minus infinite where shape, dtype or a non-finite value differ.
    """
    return decibels(*energies(reference, other))


def energies(reference: Tensor, other: Tensor) -> tuple[float, float]:
    """The sum of squares of `reference` and of the difference, which is infinite where no decibels can tell it."""
    if reference.shape != other.shape or reference.dtype != other.dtype:
        return 0.0, math.inf
    if not reference.dtype.is_floating_point:
        return 0.0, 0.0 if _same(reference, other).all() else math.inf
    signal = noise = 0.0
    for exact, found in _pieces(reference, other):
        same, precise = _same(exact, found), exact.double()
        signal += precise[precise.isfinite()].square().sum().item()
        noise += (precise - found.double())[~same].square().sum().item()
    return signal, noise if math.isfinite(noise) else math.inf


def difference(exact: Tensor, other: Tensor) -> float:
    """The energy of the difference: of floats the sum of squares, infinite where one alone is finite; else a count."""
    if exact.shape != other.shape:
        return float("inf")
    if not exact.is_floating_point():
        return float((exact != other).sum())
    return sum(
        float((one.double() - beside.double())[~_same(one, beside)].square().nan_to_num(torch.inf).sum())
        for one, beside in _pieces(exact, other)
    )


_PIECE = 2**18


def _pieces(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both some values at a time: in double precision, logits may take more than the model."""
    return zip(*(x.detach().flatten().split(_PIECE) for x in (one, other)))


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one == other) | (one.isnan() & other.isnan())


def decibels(signal: float, noise: float) -> float:
    """The ratio of two energies in dB; infinite where there is no noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and noise < math.inf else -math.inf


class RunningSqnr:
    """`agreement` of floating-point outputs over all batches, as if they had been one."""

    def __init__(self) -> None:
        self.sums: list[tuple[float, float]] = []

    def update(self, reference: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """Take note of the outputs for one batch; every batch has as many."""
        found = [energies(*pair) for pair in zip(reference, other, strict=True)]
        before = self.sums or [(0.0, 0.0)] * len(found)
        self.sums = [(s + signal, n + noise) for (s, n), (signal, noise) in zip(before, found, strict=True)]

    @property
    def decibels(self) -> float:
        """Of the output that agrees least."""
        return min((decibels(*sums) for sums in self.sums), default=math.inf)


def agreement(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The lowest `sqnr` over all outputs; minus infinity where their number or a non-tensor value differs."""
    if len(before) != len(after):
        return float("-inf")
    return min((_agreement(b, a) for b, a in zip(before, after)), default=float("inf"))


def _agreement(before: Any, after: Any) -> float:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return sqnr(before, after)
    return float("inf") if before == after else float("-inf")
