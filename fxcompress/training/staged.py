"""Controllers of methods that start in stages: weights at one epoch of training, activations at another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fxcompress.options import check_arguments
from fxcompress.training.controller import CompressionStage, Controller
from fxcompress.training.scheduler import Scheduler


class Switchable(Protocol):
    """A module in a graph that returns its input unchanged while it is not enabled."""

    enabled: bool


class StagedController(Controller):
    """The hold on modules for weights and for activations, which a schedule turns on.

    Args:
        weights, activations: the modules by name.
        weights_start_epoch, activations_start_epoch: when they are turned on; those of epoch 0 are on from the beginning.
    """

    scheduler: StagedScheduler

    def __init__(
        self,
        weights: Mapping[str, Switchable],
        activations: Mapping[str, Switchable],
        weights_start_epoch: int,
        activations_start_epoch: int,
    ):
        self.weights, self.activations = dict(weights), dict(activations)
        super().__init__(StagedScheduler(self, {"weights": weights_start_epoch, "activations": activations_start_epoch}))

    def start(self) -> None:
        """Turn on what starts at epoch 0, and off what starts later."""
        self.switch(**{kind: epoch <= 0 for kind, epoch in self.scheduler.starts.items()})

    @check_arguments("weights", "activations")
    def switch(self, *, weights: bool | None = None, activations: bool | None = None) -> None:
        """Turn what is for weights, for activations, or for both on or off; None leaves it as it is.

        It stays so until its start epoch comes.

        Raises:
            InputError: an argument is neither.
        """
        for wanted, modules in ((weights, self.weights), (activations, self.activations)):
            for module in modules.values() if wanted is not None else ():
                module.enabled = bool(wanted)

    def compression_stage(self) -> CompressionStage:
        """Uncompressed while none of the modules is on, fully compressed when all are."""
        on = {module.enabled for modules in (self.weights, self.activations) for module in modules.values()}
        if on == {True, False}:
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED if True in on else CompressionStage.UNCOMPRESSED

    def not_begun(self) -> str | None:
        """What is off and waits for an epoch, where none has begun."""
        kinds = {"weights": self.weights, "activations": self.activations}
        off = [kind for kind, modules in kinds.items() if modules and not any(one.enabled for one in modules.values())]
        waiting = [f"{kind} start at epoch {self.scheduler.starts[kind]}" for kind in off if self.scheduler.starts[kind] > 0]
        return " and ".join(waiting) if waiting and self.scheduler.current_epoch < 0 else None


class StagedScheduler(Scheduler):
    """Turns the modules for weights and for activations on when their epochs come, and off when it goes back before them."""

    def __init__(self, controller: StagedController, starts: Mapping[str, int]):
        super().__init__()
        self.controller, self.starts = controller, dict(starts)

    def epoch_step(self, epoch: int | None = None) -> None:
        before = self.current_epoch
        super().epoch_step(epoch)
        for kind, start in self.starts.items():
            if start > 0 and (before >= start) != (self.current_epoch >= start):
                self.controller.switch(**{kind: self.current_epoch >= start})
