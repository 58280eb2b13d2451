"""The callback for the `Trainer` of Lightning."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from torch import nn

from fxcompress.integrations.added_loss import NAME, AddedLoss
from fxcompress.training.controller import CompositeController


def callback(controller: CompositeController, model: nn.Module, *, add_loss: bool = True) -> Callback:
    """A callback that steps the schedules of `controller`, which go into Lightning's checkpoints and come back.

    With `add_loss` the loss of compression is added to what `training_step` returns, and logged.
    """
    return CompressionCallback(controller, add_loss)


class CompressionCallback(Callback):
    """Steps the schedules of compression. An epoch begins with its first batch, as Lightning numbers them: it does not call
    `on_train_epoch_start` of every one after a checkpoint."""

    def __init__(self, controller: CompositeController, add_loss: bool):
        self.controller, self.add_loss, self.loss = controller, add_loss, AddedLoss(controller)
        self._epoch: int | None = None  # the one that has begun, as Lightning numbers them
        self._before: Any = None  # what the instance had for `training_step`, where it had something

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._epoch = None  # before a checkpoint is loaded

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.add_loss and self.controller.has_loss and pl_module.automatic_optimization:
            own, self._before = pl_module.training_step, vars(pl_module).get("training_step")

            def training_step(*args: Any, **kwargs: Any) -> Any:
                result = self.loss.to(own(*args, **kwargs))
                pl_module.log(NAME, self.loss.last)
                return result

            pl_module.training_step = training_step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch != self._epoch:
            self._epoch = trainer.current_epoch
            self.controller.scheduler.epoch_step()
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.controller.scheduler.step()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._before is not None:
            pl_module.training_step = self._before
        else:
            vars(pl_module).pop("training_step", None)
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.controller.scheduler.state_dict(), "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.controller.scheduler.load_state_dict(state_dict["schedule"])
        self._epoch = state_dict["epoch"]
