"""The loss of compression, added to the loss that a model or a step of training returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fxcompress.errors import TrainingError
from fxcompress.training.controller import Controller

NAME = "compression_loss"
"""What it is called in a dict of losses and in a log."""


class AddedLoss:
    """Adds ``controller.loss()`` where there is one.

    Attributes:
        last: what was added last, for logs; None before.
    """

    def __init__(self, controller: Controller):
        self.controller = controller
        self.last: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def watch(self, model: nn.Module, add: Callable[[AddedLoss, Any, dict[str, Any]], Any]) -> None:
        """From now on `add(self, outputs, kwargs)` is what `model` returns in training; see `stop`."""
        self.stop()
        if not self.controller.has_loss:
            return

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
            return add(self, outputs, kwargs) if module.training and torch.is_grad_enabled() else outputs

        self._handle = model.register_forward_hook(hook, with_kwargs=True)

    def stop(self) -> None:
        """Let the model return again what it returns."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def term(self, share: float = 1.0) -> Tensor:
        """The loss to add, a scalar, times `share`."""
        loss = self.controller.loss()
        self.last = loss.detach()
        return loss * share

    def to(self, result: Any, share: float = 1.0) -> Any:
        """`result` with the loss added: to a scalar, to ``result["loss"]``, or to the first item of a tuple.

        Raises:
            TrainingError: there is no scalar loss there.
        """
        if not self.controller.has_loss or result is None:
            return result
        if isinstance(result, Mapping) and _is_scalar(result.get("loss")):
            return _with_item(result, "loss", result["loss"] + self.term(share).to(result["loss"].device))
        if isinstance(result, tuple) and result and _is_scalar(result[0]):
            return (result[0] + self.term(share).to(result[0].device), *result[1:])
        if _is_scalar(result):
            return result + self.term(share).to(result.device)
        raise TrainingError(
            "compression has a loss of its own (distillation, learned sparsity), and what is returned in training holds none "
            "to add it to: it is computed elsewhere. Make the callback with add_loss=False, and add "
            "compression.controller.loss() where your loss is computed"
        )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _with_item(result: Any, key: str, value: Tensor) -> Any:
    result[key] = value  # of the outputs of this one call, which nobody else holds yet
    return result
