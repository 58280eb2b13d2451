"""What a loop of one's own over Accelerate calls: it keeps the schedules in the checkpoints of the Accelerator."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import nn

from fxcompress.errors import InputError
from fxcompress.integrations.added_loss import AddedLoss
from fxcompress.training.controller import CompositeController


def callback(
    controller: CompositeController, model: nn.Module, *, accelerator: Accelerator | None = None, add_loss: bool = True
) -> AccelerateCallback:
    """A callback for a loop over `accelerator`, whose `save_state` and `load_state` have its schedules from now on.

    With `add_loss` the loss of compression is added to the loss that `model` returns in training, where it returns one.

    Raises:
        InputError: no accelerator was given.
    """
    if not isinstance(accelerator, Accelerator):
        raise InputError('give the accelerator of the loop: compression.callback("accelerate", accelerator=accelerator)')
    made = AccelerateCallback(controller, accelerator)
    accelerator.register_for_checkpointing(made)
    if add_loss:
        made.loss.watch(model, lambda loss, outputs, given: loss.to(outputs))
    return made


class AccelerateCallback:
    """The schedules of compression in a loop of one's own:

        for epoch in range(callback.epoch, epochs):
            callback.on_epoch_begin()
            for batch in loader:
                with accelerator.accumulate(model):
                    callback.on_step_begin()
                    ...

    After ``accelerator.load_state()`` in the middle of an epoch, `on_epoch_begin` goes on with that epoch.
    """

    def __init__(self, controller: CompositeController, accelerator: Accelerator):
        self.controller, self.accelerator, self.loss = controller, accelerator, AddedLoss(controller)
        self._inside = self._goes_on = False
        self._stepped = True  # the last pass was followed by an optimizer step

    @property
    def epoch(self) -> int:
        """The epoch to begin, or to go on with, from 0."""
        return self.controller.scheduler.current_epoch + (0 if self._goes_on else 1)

    def on_epoch_begin(self) -> None:
        """Call it at the start of every epoch."""
        if not self._goes_on:
            self.controller.scheduler.epoch_step()
        self._inside, self._goes_on = True, False

    def on_step_begin(self) -> None:
        """Call it at the start of every forward pass, in ``accelerator.accumulate``; a step of several passes counts once."""
        if self._stepped:
            self.controller.scheduler.step()
        self._stepped = self.accelerator.sync_gradients

    def on_epoch_end(self) -> None:
        """Call it at the end of every epoch, before a checkpoint that is to go on with the next one."""
        self._inside = False

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.controller.scheduler.state_dict(), "inside": self._inside, "stepped": self._stepped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.controller.scheduler.load_state_dict(state["schedule"])
        self._inside = self._goes_on = state["inside"]
        self._stepped = state["stepped"]
