"""The hook for the `Runner` of MMEngine, which MMDetection and MMSegmentation train with."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from fxcompress.integrations.added_loss import NAME, AddedLoss
from fxcompress.training.controller import CompositeController

_KEY = "compression"
"""Of the schedules in the checkpoints."""


def callback(controller: CompositeController, model: nn.Module, *, add_loss: bool = True) -> Hook:
    """A hook that steps the schedules of `controller`, which go into the checkpoints of the Runner and come back.

    With `add_loss` the loss of compression becomes one of the losses that `model` returns in training.
    """
    return CompressionHook(controller, model, add_loss)


class CompressionHook(Hook):
    """Steps the schedules of compression. Where the loop counts iterations alone, an epoch is one way through its loader."""

    def __init__(self, controller: CompositeController, model: nn.Module, add_loss: bool):
        self.controller, self.model, self.add_loss, self.loss = controller, model, add_loss, AddedLoss(controller)

    def before_run(self, runner: Any) -> None:
        for module in self.model.modules():
            if hasattr(module, "_is_init"):
                module._is_init = True  # the Runner would draw weights anew, over those that ranges were chosen for

    def before_train(self, runner: Any) -> None:
        if self.add_loss:
            self.loss.watch(self.model, _with_term)

    def before_train_epoch(self, runner: Any) -> None:
        if _counts_epochs(runner):
            self.controller.scheduler.epoch_step(runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not _counts_epochs(runner):
            epoch = runner.iter // len(runner.train_dataloader)
            if epoch != self.controller.scheduler.current_epoch:
                self.controller.scheduler.epoch_step(epoch)
        if runner.iter % getattr(runner.optim_wrapper, "_accumulative_counts", 1) == 0:
            self.controller.scheduler.step()

    def after_train(self, runner: Any) -> None:
        self.loss.stop()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = self.controller.scheduler.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if _KEY in checkpoint and runner._resume:
            self.controller.scheduler.load_state_dict(checkpoint[_KEY])


def _counts_epochs(runner: Any) -> bool:
    return getattr(runner.train_loop, "max_epochs", 1) > 1 or hasattr(runner.train_loop, "run_epoch")


def _with_term(loss: AddedLoss, outputs: Any, given: dict[str, Any]) -> Any:
    """A dict of losses, all of which MMEngine adds up, with one more; predictions stay as they are."""
    if isinstance(outputs, dict) and given.get("mode", "loss") == "loss":
        return {**outputs, NAME: loss.term()}
    return outputs
