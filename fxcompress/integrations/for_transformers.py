"""The callback for the `Trainer` of Hugging Face Transformers."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from fxcompress.data.caches import holds_cache
from fxcompress.errors import warn_user
from fxcompress.integrations.added_loss import NAME, AddedLoss
from fxcompress.training.controller import CompositeController


def callback(controller: CompositeController, model: nn.Module, *, add_loss: bool = True) -> TrainerCallback:
    """A callback that steps the schedules of `controller`, which go into the checkpoints of the Trainer and come back.

    With `add_loss` the loss of compression is added to the loss that `model` returns in training, and logged.
    """

    class CompressionCallback(TrainerCallback, ExportableState):
        """Steps the schedules of compression. Its class knows the controller, since Trainer makes it anew by its class."""

        def __init__(self) -> None:
            self.loss = AddedLoss(controller)
            self.goes_on = False  # in the middle of an epoch, which has begun already

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
            controller.scheduler.load_state_dict(saved["attributes"]["schedule"])
            if _is_without_cache(model) and any(map(_returns_cache, model.modules())):
                warn_user(_CACHE_TURNED_OFF, UserWarning)
            if args.gradient_checkpointing:
                warn_user(_NO_CHECKPOINTS, UserWarning)
            self.goes_on = state.global_step > 0 and state.epoch % 1 != 0 and controller.scheduler.current_epoch >= 0
            if add_loss:
                self.loss.watch(model, lambda loss, outputs, given: loss.to(outputs, _share(args, given)))

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.goes_on:
                controller.scheduler.epoch_step()
            self.goes_on = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            controller.scheduler.step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs is not None and "loss" in logs and self.loss.last is not None:
                logs[NAME] = float(self.loss.last)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.loss.stop()

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"schedule": controller.scheduler.state_dict()}}

    return CompressionCallback()


_NO_CHECKPOINTS = (
    "gradient_checkpointing saves no memory in what is compressed, whose layers are one graph; to save it, compress single "
    "layers, submodules=[...], and call them through torch.utils.checkpoint"
)

_CACHE_TURNED_OFF = (
    "the Trainer has set model.config.use_cache = False, and the model was compressed with its cache, which it goes on "
    "returning; whatever is loaded from what is saved now would be compressed otherwise. Keep it with "
    "TrainingArguments(use_cache=True), or set model.config.use_cache = False before it is compressed: training reads no cache"
)


def _is_without_cache(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "use_cache", None) is False


def _returns_cache(module: nn.Module) -> bool:
    """Whether `module` is compressed, and returns a cache."""
    spec = getattr(module, "_out_spec", None)
    return spec is not None and holds_cache(spec)


def _share(args: Any, given: dict[str, Any]) -> float:
    """What the loss of compression is to be multiplied by, so that an optimizer step has the mean over its forward passes.

    Where the model is told how many items a step has, Trainer takes its loss for a sum over them: it does not divide by the
    number of passes, and multiplies by the number of processes, which average.
    """
    if given.get("num_items_in_batch") is None:
        return 1.0
    processes = args.world_size if args.average_tokens_across_devices else 1
    return 1.0 / (args.gradient_accumulation_steps * processes)
