"""Accuracy-aware training: until the accuracy is good enough, or to the highest level of compression at which it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Ge, Gt, Le
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fxcompress.errors import InputError
from fxcompress.options import check_arguments
from fxcompress.report.tables import printed
from fxcompress.training.controller import CompressionStage
from fxcompress.training.models import Trainable
from fxcompress.training.quality import quality

_DIGITS = 9
"""Of a level: 0.1 + 0.2 is 0.3."""


class Leveled(Protocol):
    """What is asked of a controller whose level is searched for: a share, 0 to 1, of what there is to compress."""

    @property
    def level(self) -> float: ...

    def set_level(self, level: float) -> None: ...


TrainEpoch = Callable[[Any, int], None]
"""``train_epoch(model, epoch)`` trains for an epoch; they are counted from 0."""

Validate = Callable[[Any], float]
"""``validate(model)`` is the model's quality; larger is better."""


@dataclass(frozen=True)
class Trial:
    """A model that was validated: after so many epochs, at this level (None where levels are not searched)."""

    epochs: int
    score: float
    met: bool
    level: float | None = None


@dataclass
class TrainingResult:
    """What came of accuracy-aware training; print it for a table of all trials.

    Attributes:
        least: the lowest score that is tolerated.
        trials: in their order.
        best: the trial whose state the model was left in: of those that met the tolerance, that of the highest level
            and then the highest score; of the highest score where none did; None where nothing could be compared.
        state: the model's checkpoint at `best`.
    """

    least: float
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    state: dict[str, Any] | None = None

    @property
    def met(self) -> bool:
        """Whether the tolerance was met."""
        return self.best is not None and self.best.met

    def add(self, model: Trainable, trial: Trial, comparable: bool = True) -> None:
        """Note `trial`, and the state of `model` where it is the best so far."""
        self.trials.append(trial)
        if comparable and not math.isnan(trial.score) and (self.best is None or _rank(trial) > _rank(self.best)):
            self.best, self.state = trial, model.checkpoint()

    def __str__(self) -> str:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=f"tolerated from {self.least:.4g} on", caption_justify="left")
        for name in ("epochs", "level", "score"):
            table.add_column(name, justify="right")
        table.add_column("")
        for one in self.trials:
            level = "-" if one.level is None else f"{one.level:.3f}"
            table.add_row(str(one.epochs), level, f"{one.score:.4g}", self._remark(one))
        return printed(table)

    def _remark(self, trial: Trial) -> str:
        if trial is self.best:
            return "best"
        if trial.met:
            return ""
        return "not fully compressed" if trial.score >= self.least else "too low"


@check_arguments()
def early_exit(
    model: Trainable,
    train_epoch: TrainEpoch,
    validate: Validate,
    *,
    baseline: float,
    max_drop: Annotated[float, Ge(0)] | None = None,
    max_relative_drop: Annotated[float, Ge(0)] | None = None,
    epochs: Annotated[int, Ge(1)],
) -> TrainingResult:
    """Train `model` until it is fully compressed and its score is tolerable, for `epochs` at most.

    The model is validated before the first epoch and after each one, and is left in its best state.

    Args:
        baseline: the score of the original model.
        max_drop: how far the score may fall; or else
        max_relative_drop: which share of `baseline` it may lose.

    Raises:
        InputError: an option cannot be used.
    """
    result = TrainingResult(_least(baseline, max_drop, max_relative_drop))
    for done in range(epochs + 1):
        if done:
            train_epoch(model, done - 1)
        score = quality(validate, model)
        complete = model.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
        result.add(model, Trial(done, score, complete and score >= result.least), comparable=complete)
        if result.met:
            return result
    if result.state is not None:
        model.load_checkpoint(result.state)
    return result


@check_arguments()
def adaptive_level(
    model: Trainable,
    controller: Leveled,
    train_epoch: TrainEpoch,
    validate: Validate,
    *,
    baseline: float,
    max_drop: Annotated[float, Ge(0)] | None = None,
    max_relative_drop: Annotated[float, Ge(0)] | None = None,
    epochs: Annotated[int, Ge(1)] = 100,
    patience: Annotated[int, Ge(1)] = 3,
    step: Annotated[float, Gt(0), Le(1)] = 0.1,
    resolution: Annotated[float, Gt(0), Le(1)] = 0.025,
    highest: Annotated[float, Gt(0), Le(1)] = 0.95,
    optimizer: torch.optim.Optimizer | None = None,
    lr_reduction: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> TrainingResult:
    """Train `model` at the highest level of compression at which its score is tolerable, and leave it in that state.

    Starting from ``controller.level``, which a schedule may have reached before, the level goes up in steps while the score
    is tolerable, or down until it is; between a level that is and one that is not, the middle is tried, until the two are
    near enough. A level that failed is left for the best state so far.

    Args:
        controller: of `model`, with a level. `train_epoch` does not step its scheduler, which would set the level.
        baseline, max_drop, max_relative_drop: as in `early_exit`.
        epochs: of all levels together, at most.
        patience: epochs that each level has to become tolerable.
        step: between levels, until one is tolerable and another is not.
        resolution: of the level that is found.
        highest: level to try; no more than the controller takes.
        optimizer: its learning rates are multiplied by `lr_reduction` whenever the middle is taken.

    Raises:
        InputError: an option cannot be used.
    """
    if not hasattr(controller, "set_level"):
        raise InputError(
            f"a {type(controller).__name__} has no set_level(level); give the controller of the pass whose level is searched "
            "for, such as compiled.controller['Sparsify']"
        )
    result = TrainingResult(_least(baseline, max_drop, max_relative_drop))
    good = bad = None
    level: float | None = min(controller.level, highest)
    while level is not None and len(result.trials) < epochs:
        controller.set_level(level)
        if _reaches(model, level, train_epoch, validate, min(patience, epochs - len(result.trials)), result):
            good = level
        else:
            bad = level
            _restore(model, controller, result)
        if good is not None and bad is not None:
            _scale_learning_rates(optimizer, lr_reduction)
        level = _next_level(good, bad, step, resolution, highest)
    _restore(model, controller, result)
    return result


def _reaches(
    model: Trainable, level: float, train_epoch: TrainEpoch, validate: Validate, epochs: int, result: TrainingResult
) -> bool:
    """Train at `level` until the score is tolerable, for `epochs` at most; whether it was."""
    for _ in range(epochs):
        train_epoch(model, len(result.trials))
        score = quality(validate, model)
        result.add(model, Trial(len(result.trials) + 1, score, score >= result.least, level))
        if result.trials[-1].met:
            return True
    return False


def _next_level(good: float | None, bad: float | None, step: float, resolution: float, highest: float) -> float | None:
    """The level to try where `good` is the highest that was tolerable, `bad` the lowest that was not; None at the end."""
    if bad is None:
        assert good is not None
        return min(round(good + step, _DIGITS), highest) if good < highest else None
    if good is None:
        return max(round(bad - step, _DIGITS), 0.0) if bad > 0 else None
    return round((good + bad) / 2, _DIGITS) if round(bad - good, _DIGITS) > resolution else None


def _restore(model: Trainable, controller: Leveled, result: TrainingResult) -> None:
    if result.best is not None and result.state is not None:
        assert result.best.level is not None
        controller.set_level(result.best.level)
        model.load_checkpoint(result.state)


def _scale_learning_rates(optimizer: torch.optim.Optimizer | None, factor: float) -> None:
    for group in optimizer.param_groups if optimizer else ():
        group["lr"] *= factor


def _rank(trial: Trial) -> tuple[bool, float, float]:
    return trial.met, (trial.level or 0.0) if trial.met else 0.0, trial.score


def _least(baseline: float, drop: float | None, relative: float | None) -> float:
    if (drop is None) == (relative is None):
        raise InputError("say how far the score may fall: max_drop=, in its own units, or max_relative_drop=, and not both")
    return baseline - (drop if drop is not None else (relative or 0.0) * abs(baseline))
