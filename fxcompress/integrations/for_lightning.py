"""The callback for the `Trainer` of Lightning."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from torch import nn

from fxcompress.errors import InputError, TrainingWarning, warn_user
from fxcompress.integrations.added_loss import NAME, AddedLoss
from fxcompress.masks.mask import Mask
from fxcompress.training.controller import CompositeController

NAME_IN_CHECKPOINTS = "fxcompress"
_COMPILED = "_orig_mod"
"""Where `torch.compile` holds what it was given."""


def callback(controller: CompositeController, model: nn.Module, *, add_loss: bool = True) -> Callback:
    """A callback that steps the schedules of `controller`, which go into Lightning's checkpoints and come back.

    With `add_loss` the loss of compression is added to what `training_step` returns, and logged.
    """
    return CompressionCallback(controller, model, add_loss)


class CompressionCallback(Callback):
    """Steps the schedules of compression. An epoch begins with its first batch, as Lightning numbers them: it does not call
    `on_train_epoch_start` of every one after a checkpoint. Of several the first adds the losses of all."""

    def __init__(self, controller: CompositeController, model: nn.Module, add_loss: bool):
        self.controller, self.model, self.add_loss, self.loss = controller, model, add_loss, AddedLoss(controller)
        self._epoch: int | None = None  # the one that has begun, as Lightning numbers them
        self._is_around = False  # whether what `training_step` of the instance is, is its own
        self._before: Any = None  # what the instance had for it, where it had something

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._epoch = None  # before a checkpoint is loaded
        averaging = [one for one in trainer.callbacks if getattr(one, "_use_buffers", False)]
        if stage == "fit" and averaging and any(isinstance(one, Mask) for one in self.model.modules()):
            raise InputError(
                f"{type(averaging[0]).__name__} averages buffers, and masks are buffers without an average; let it take those "
                f"of the model as they are: {type(averaging[0]).__name__}(use_buffers=False, ...)"
            )

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss that it is to add."""
        return self.add_loss and self.controller.has_loss

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        adding = [one for one in trainer.callbacks if isinstance(one, CompressionCallback) and one.has_loss]
        if not adding or adding[0] is not self:
            return
        if not pl_module.automatic_optimization:
            warn_user(
                f"compression has a loss, and {type(pl_module).__name__} optimizes by itself, so that nothing adds it:"
                " add compression.controller.loss() in training_step, and make the callback with add_loss=False",
                TrainingWarning,
            )
            return
        own, self._before = pl_module.training_step, vars(pl_module).get("training_step")

        def training_step(*args: Any, **kwargs: Any) -> Any:
            result = own(*args, **kwargs)
            if result is None:
                return None
            for one in adding:
                result = one.loss.to(result)
            pl_module.log(NAME, sum(one.loss.last for one in adding if one.loss.last is not None))
            return result

        pl_module.training_step = training_step
        self._is_around = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch != self._epoch:
            self._epoch = trainer.current_epoch
            self.controller.scheduler.epoch_step()
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.controller.scheduler.step()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._is_around and self._before is not None:
            pl_module.training_step = self._before
        elif self._is_around:
            vars(pl_module).pop("training_step", None)
        self._is_around, self._before = False, None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Under the path of the model: there may be several, a generator and its critic, with a callback each."""
        state = {"schedule": self.controller.scheduler.state_dict(), "epoch": self._epoch}
        checkpoint.setdefault(NAME_IN_CHECKPOINTS, {})[self._path(pl_module)] = state

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        path = self._path(pl_module)
        state = checkpoint.get(NAME_IN_CHECKPOINTS, {}).get(path)
        if state is None:
            what = f"compression of {path!r}" if path else "compression"
            warn_user(f"the checkpoint has no schedules of {what}, which begin anew", TrainingWarning)
            return
        self.controller.scheduler.load_state_dict(state["schedule"])
        self._epoch = state["epoch"]

    def _path(self, pl_module: nn.Module) -> str:
        """Where the model is in `pl_module`, compiled or not; its class where it is not in it."""
        found = next((path for path, one in pl_module.named_modules() if one is self.model), type(self.model).__name__)
        return ".".join(name for name in found.split(".") if name != _COMPILED)
