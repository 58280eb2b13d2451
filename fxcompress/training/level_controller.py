"""Controllers whose compression is one number, and the schedulers that change it."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fxcompress.errors import InputError, apart, shown
from fxcompress.masks.mask import Mask
from fxcompress.options import fits
from fxcompress.training.controller import CompressionStage, Controller
from fxcompress.training.levels import Adaptive, Schedule
from fxcompress.training.scheduler import Scheduler, check_count


class LevelScheduler(Scheduler):
    """Applies a level whenever the schedule's changes, so that what was chosen for it stays until the next one.

    A level set by hand holds until then as well.

    Args:
        schedule: None for the target from the start.
        method: what is to have the level.
        freeze_epoch: from it on the method is frozen and the level stays; None for never.

    Attributes:
        level: what was applied last.
    """

    def __init__(self, schedule: Schedule | None, target: float, method: LevelController, freeze_epoch: int | None = None):
        super().__init__()
        self.schedule, self.target, self.method, self.freeze_epoch = schedule, target, method, freeze_epoch
        self.level = self._scheduled = target if schedule is None else schedule.initial
        self._step_of_epoch = -1

    def epoch_step(self, epoch: int | None = None) -> None:
        super().epoch_step(epoch)
        self._step_of_epoch = -1
        if self.is_frozen:
            self.method.freeze()
        else:
            self._follow(self._next(self.current_epoch))

    def step(self, step: int | None = None) -> None:
        super().step(step)
        self._step_of_epoch += 1
        has_begun = self.current_epoch >= 0  # else the first epoch would take back what steps before it had risen to
        if self.schedule is not None and self.schedule.steps_per_epoch is not None and has_begun and not self.is_frozen:
            passed = min(self._step_of_epoch / self.schedule.steps_per_epoch, 1.0)
            self._follow(self._next(self.current_epoch + passed))

    @property
    def is_frozen(self) -> bool:
        return self.freeze_epoch is not None and self.current_epoch >= self.freeze_epoch

    @property
    def has_moved(self) -> bool:
        """Whether an epoch has begun, or a level was set by hand."""
        return self.current_epoch >= 0 or self.level != self._scheduled

    def set_level(self, level: float) -> None:
        """Apply `level` now.

        Raises:
            InputError: it is not from 0 to below 1.
        """
        if not isinstance(level, numbers.Real) or isinstance(level, bool) or not 0 <= level < 1:
            raise InputError(f"a level is from 0 to below 1, not {level!r:.60}")
        self.method.apply(level)
        self.level = level

    def _next(self, epoch: float) -> float:
        return self.target if self.schedule is None else self.schedule.level(epoch, self.target)

    def _follow(self, scheduled: float) -> None:
        if scheduled != self._scheduled:
            self._scheduled = scheduled
            self.set_level(scheduled)

    def state_dict(self) -> dict[str, Any]:
        own = {"level": self.level, "scheduled": self._scheduled, "step_of_epoch": self._step_of_epoch}
        return {**super().state_dict(), **own}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        check_count(state, "step_of_epoch", -1)
        for name in ("level", "scheduled"):
            if not fits(state[name], float) or not 0 <= state[name] < 1:
                raise InputError(f"{name} is from 0 to below 1, not {shown(state[name])}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Scheduler.load_state_dict`; nothing is applied, since masks are part of the model's own state."""
        super().load_state_dict(state)
        self.level, self._scheduled, self._step_of_epoch = state["level"], state["scheduled"], state["step_of_epoch"]
        self.method.note([])


class AdaptiveScheduler(LevelScheduler):
    """Applies the next level when the model has reached the one before."""

    schedule: Adaptive

    def __init__(self, schedule: Adaptive, target: float, method: LevelController, freeze_epoch: int | None = None):
        super().__init__(schedule, target, method, freeze_epoch)
        self._reached = 0  # epochs that began within the tolerance of the level, since it rose

    def _next(self, epoch: float) -> float:
        if self.method.reached() >= self._scheduled - self.schedule.tolerance:
            self._reached += 1
        if self._reached < self.schedule.patience:
            return self._scheduled
        self._reached = 0
        return min(self._scheduled + self.schedule.step, self.target)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "reached": self._reached}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        check_count(state, "reached", 0)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._reached = state["reached"]


class LevelController(Controller):
    """A controller of a method whose compression is one number, the level, from 0 to below 1.

    Args:
        schedule: how the level gets to `target`; None for the target from the start.
        freeze_epoch: when the method is frozen; None for never.
    """

    scheduler: LevelScheduler
    margin: ClassVar[float] = 1e-6
    """How far beyond its level a model can be that was never stepped."""

    def __init__(self, schedule: Schedule | None, target: float, freeze_epoch: int | None = None):
        self._noted: list[tuple[Mask, int]] = []
        if isinstance(schedule, Adaptive):
            super().__init__(AdaptiveScheduler(schedule, target, self, freeze_epoch))
        else:
            super().__init__(LevelScheduler(schedule, target, self, freeze_epoch))

    @property
    def level(self) -> float:
        """What was asked for last."""
        return self.scheduler.level

    def apply(self, level: float) -> None:
        """Compress to `level`."""
        raise NotImplementedError

    def reached(self) -> float:
        """The level that the model has now."""
        raise NotImplementedError

    def note(self, masks: Iterable[Mask]) -> None:
        """Remember how many zeros `masks` have now; what they lack of these later, something else has taken out."""
        self._noted = [(mask, mask.zeros()) for mask in masks]

    def overwritten(self) -> str | None:
        """The zeros that the masks of this level have lost."""
        now, put = sum(mask.zeros() for mask, _ in self._noted), sum(zeros for _, zeros in self._noted)
        return f"its masks have {now} zeros, and had {put} at this level" if now < put else None

    def freeze(self) -> None:
        """Let nothing change any more; for methods that have something to freeze."""

    def set_level(self, level: float) -> None:
        """Compress to `level` now; it stays until the schedule's changes.

        Raises:
            InputError: it is not from 0 to below 1, or cannot be had.
        """
        self.scheduler.set_level(level)

    def compression_stage(self) -> CompressionStage:
        """Fully compressed where the level has reached its target."""
        if self.scheduler.level >= self.scheduler.target:
            return CompressionStage.FULLY_COMPRESSED
        return CompressionStage.PARTIALLY_COMPRESSED if self.scheduler.level > 0 else CompressionStage.UNCOMPRESSED

    def not_begun(self) -> str | None:
        """The level that it has and the one that it was to have, where the schedule gave the one and never moved."""
        scheduler = self.scheduler
        if scheduler.has_moved or scheduler.level >= scheduler.target:
            return None
        if scheduler.current_step < 0 and self.reached() > scheduler.level + self.margin:
            return None  # the state of a model in training was loaded, and not its schedule
        level, target = apart(scheduler.level, scheduler.target, ".1%")
        return f"the level is still {level}, not {target}"
