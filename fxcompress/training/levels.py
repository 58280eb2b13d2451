"""How much to compress, from epoch to epoch: the schedules of sparsity and pruning.

A schedule is data: it says how the level, a share from 0 to 1, goes from `initial` to the target that a pass is given.
`fxcompress.training.level_controller` steps through it.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from fxcompress.errors import InputError
from fxcompress.options import Declared
from fxcompress.report.short_repr import short_repr

Epoch = Annotated[int, Ge(0)]
"""Epochs are counted from 0."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule(Declared, ABC):
    """A level for every epoch. Epochs count from 0, and 2.5 is the middle of epoch 2.

    Attributes:
        initial: the level of the compiled model, and of the first epoch unless the schedule says otherwise.
        steps_per_epoch: optimizer steps an epoch, for a level that changes with every step; None for every epoch.

    Raises:
        InputError: an option is out of its range.
    """

    initial: Annotated[float, Ge(0), Lt(1)] = 0.0
    steps_per_epoch: Annotated[int, Ge(1)] | None = None

    def __repr__(self) -> str:
        return short_repr(self)

    @abstractmethod
    def level(self, epoch: float, target: float) -> float:
        """The level at `epoch`, on the way to `target`."""

    def check(self, target: float) -> None:
        """Raise InputError where it cannot lead to `target`."""
        if self.initial > target:
            raise InputError(f"the schedule starts at {self.initial!r}, above the {target!r} that it leads to")


@dataclass(frozen=True, kw_only=True, repr=False)
class _Ramp(Schedule):
    """From `initial` to the target within `epochs`, after `warmup` epochs at `initial`.

    Attributes:
        epochs: how many the way takes.
        warmup: how many go before it.
    """

    epochs: Annotated[int, Ge(1)]
    warmup: Epoch = 0

    def level(self, epoch: float, target: float) -> float:
        """The very ends at both ends, and nothing beyond them in between, whatever is rounded: a level never falls."""
        t = min(max((epoch - self.warmup) / self.epochs, 0.0), 1.0)
        if t in (0, 1) or self.initial == target:
            return target if t == 1 else self.initial
        return min(max(self._level(t, target), self.initial), target)

    @abstractmethod
    def _level(self, t: float, target: float) -> float:
        """The level once the share `t` of the time has passed, which is between 0 and 1."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Polynomial(_Ramp):
    """``target - (target - initial) (1 - t)^power`` with t the time from 0 to 1.

    Not concave, ``initial + (target - initial) t^power``.

    With power 3, the schedule of Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1.

    Attributes:
        power: 1 for a straight line; the higher, the more bent.
        concave: fast at first; else slow at first.
    """

    power: Annotated[float, Gt(0)] = 0.9
    concave: bool = True

    def _level(self, t: float, target: float) -> float:
        if self.concave:
            return target - (target - self.initial) * (1 - t) ** self.power
        return self.initial + (target - self.initial) * t**self.power


@dataclass(frozen=True, kw_only=True, repr=False)
class Exponential(_Ramp):
    """The share that is left shrinks by the same factor every epoch: ``1 - (1 - initial) ((1 - target) / (1 - initial))^t``."""

    def _level(self, t: float, target: float) -> float:
        return 1 - (1 - self.initial) * ((1 - target) / (1 - self.initial)) ** t


@dataclass(frozen=True, kw_only=True, repr=False)
class ExponentialWithBias(_Ramp):
    """``a exp(-k t) + b`` through `initial` at 0, three quarters of the target at 1/8 of the time, and the target at its end.

    He et al., "Asymptotic Soft Filter Pruning", arXiv 1808.07471, section 3.3, equation 4.
    """

    def _level(self, t: float, target: float) -> float:
        k = self._rate(target)
        return self.initial + (target - self.initial) * math.expm1(-k * t) / math.expm1(-k)

    def check(self, target: float) -> None:
        super().check(target)
        if self.initial < target:
            self._rate(target)

    def _rate(self, target: float) -> float:
        """k: with ``z = exp(-k / 8)``, the point at 1/8 of the time says ``(1 - z) / (1 - z^8)``, which falls with z."""
        share = (0.75 * target - self.initial) / (target - self.initial)
        if not 1 / 8 < share < 1:
            raise InputError(
                f"ExponentialWithBias passes through three quarters of the target, {0.75 * target:g}, after an eighth of its "
                f"epochs, which no curve does from {self.initial:g}: give an initial level below 5/7 of the target"
            )
        low, high = 0.0, 1.0
        for _ in range(60):
            z = (low + high) / 2
            low, high = (z, high) if 1 / sum(z**i for i in range(8)) > share else (low, z)
        return -8 * math.log(high)


@dataclass(frozen=True, kw_only=True, repr=False)
class MultiStep(Schedule):
    """`levels` in turn, each until the epoch of `epochs` at the same position; the target from the last one on.

    ``MultiStep(levels=(0.1, 0.3), epochs=(10, 20))`` is 0.1 in epochs 0 to 9, 0.3 in epochs 10 to 19, then the target.

    Attributes:
        levels: all but the last one, which is the target.
        epochs: the first in which each level holds no more; they rise.
    """

    levels: tuple[Annotated[float, Ge(0), Lt(1)], ...]
    epochs: tuple[Epoch, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.epochs) or not self.levels:
            raise InputError(f"MultiStep needs an epoch for each level, got {self.levels!r} and {self.epochs!r}")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise InputError(f"the epochs of MultiStep rise, but are {self.epochs!r}")

    def level(self, epoch: float, target: float) -> float:
        return (*self.levels, target)[bisect.bisect_right(self.epochs, epoch)]


@dataclass(frozen=True, kw_only=True, repr=False)
class Baseline(Schedule):
    """`initial` for `warmup` epochs, then the target at once.

    Attributes:
        warmup: how many epochs keep `initial`.
    """

    warmup: Epoch = 0

    def level(self, epoch: float, target: float) -> float:
        return target if epoch >= self.warmup else self.initial


@dataclass(frozen=True, kw_only=True, repr=False)
class Adaptive(Schedule):
    """The level rises by `step` when the model has reached it: after `patience` epochs that began within `tolerance` of it.

    For methods that learn their zeros and get there in their own time.

    Attributes:
        step: by how much the level rises.
        patience: epochs before it does.
        tolerance: how far below the level the model may be, a share of all weights.
    """

    step: Annotated[float, Gt(0), Lt(1)] = 0.05
    patience: Annotated[int, Ge(1)] = 1
    tolerance: Annotated[float, Ge(0)] = 0.03

    def __post_init__(self) -> None:
        if self.steps_per_epoch is not None:
            raise InputError("Adaptive looks at the model once an epoch: leave steps_per_epoch out")

    def level(self, epoch: float, target: float) -> float:
        """The highest level that it can have at `epoch`."""
        return min(self.initial + self.step * ((int(epoch) + 1) // self.patience), target)


def check_schedule(schedule: Schedule | None, target: float) -> None:
    """Raise InputError where `schedule` cannot lead to `target`; None leads anywhere."""
    if schedule is not None:
        schedule.check(target)
