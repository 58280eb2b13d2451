"""Medians and ratios of timings taken round by round on a machine that is never quite quiet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median and its bootstrap interval, all in the unit of what was measured."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit; `factor` is positive."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def median(samples: np.ndarray, seed: int = 0) -> Estimate:
    """The median of `samples`, with an interval that holds the true median with 95% confidence.

    Args:
        samples: (loads, rounds), or (rounds,) where everything was measured in one go. A load is one time that the
            files were compiled anew: where the memory happens to lie shifts all of its rounds alike, so the bootstrap
            draws loads first, then rounds within them (Davison and Hinkley, Bootstrap Methods and their Application,
            section 3.8).
        seed: of the resampling.

    Raises:
        ValueError: there is no sample, or one is not finite.
    """
    samples = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError(f"a median needs finite samples, not {samples!r}")
    loads, rounds = samples.shape
    random = np.random.default_rng(seed)
    medians = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        load = random.integers(loads, size=(loads, 1))
        medians[i] = np.median(samples[load, random.integers(rounds, size=(loads, rounds))])
    value = float(np.median(samples))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value))


def paired_ratio(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Estimate:
    """The median over rounds of ours / theirs.

    The two of a round were measured moments apart, so what slows the machine for a while falls on both and cancels: far
    sharper than the ratio of two medians.

    Args:
        ours, theirs: seconds, the same shape, as `median` takes it; equal positions are one round.

    Raises:
        ValueError: the shapes differ.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"paired timings have one shape, not {ours.shape} and {theirs.shape}")
    return median(ours / theirs, seed)


def orders(count: int, rounds: int, seed: int = 0) -> Iterator[list[int]]:
    """An order for each round in which to measure `count` things.

    In every block of `count` rounds each thing stands once in every place (a rotation); each block starts from a fresh
    shuffle, so that none follows the same neighbour all the time and suffers from the cache that it leaves behind.
    """
    random = np.random.default_rng(seed)
    start: list[int] = []
    for position in range(rounds):
        shift = position % count
        if shift == 0:
            start = random.permutation(count).tolist()
        yield start[shift:] + start[:shift]
