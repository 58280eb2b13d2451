"""Training and fine-tuning: the plain loop, a checkpoint an epoch, the same bits after an interruption.

Everything random in an epoch follows from the run's seed and the epoch's number, and the learning rate from the step's, so a
checkpoint needs the model and the optimizer alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.laboratory.fashion import Fashion
from fxcompress.compiled import Compiled

Progress = Callable[[str, int, int], None]

WARMUP = 0.1
"""The share of all steps in which the learning rate rises."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, whose learning rate rises to `learning_rate` and falls to zero along a cosine.

    Attributes:
        epochs: over the training images.
        learning_rate: the largest, of parameters that the original model has.
        weight_decay: of its weights; biases, norms and what compression adds have none.
        added_learning_rate: the largest, of parameters that compression adds.
    """

    epochs: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    added_learning_rate: float = 1e-3

    def share(self, step: int, steps: int) -> float:
        """The share of the largest learning rate at `step` of `steps`."""
        warm = max(1, round(WARMUP * steps))
        return (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


def optimizer_of(compiled: nn.Module, recipe: Recipe, original: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """An optimizer for `compiled`; `original` are the state's names and values of the model that was compiled."""
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "others": [], "added": []}
    for name, parameter in compiled.named_parameters():
        kind = "added" if name not in original else "weights" if parameter.dim() > 1 else "others"
        groups[kind].append(parameter)
    options = {
        "weights": {"peak": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        "others": {"peak": recipe.learning_rate, "weight_decay": 0.0},
        "added": {"peak": recipe.added_learning_rate, "weight_decay": 0.0},
    }
    return torch.optim.AdamW([{"params": params, **options[kind]} for kind, params in groups.items() if params])


def fine_tune(
    compiled: Compiled,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    data: Fashion,
    seed: int,
    checkpoint: Path,
    progress: Progress = lambda *_: None,
) -> None:
    """Train `compiled`, going on from `checkpoint` if it is there; it is written after every epoch.

    `progress` is called as ``progress(description, done, total)`` with the optimizer's steps.
    """
    steps = recipe.epochs * data.steps_per_epoch
    for epoch in range(_resume(compiled, optimizer, checkpoint), recipe.epochs):
        torch.manual_seed(seed * 1000 + epoch)
        compiled.controller.scheduler.epoch_step()
        compiled.train()
        for step, batch in enumerate(data.epoch(seed * 1000 + epoch), epoch * data.steps_per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * recipe.share(step, steps)
            train_step(compiled, optimizer, batch)
            progress(f"epoch {epoch + 1} of {recipe.epochs}", step + 1, steps)
        _save({"epoch": epoch + 1, "compiled": compiled.checkpoint(), "optimizer": optimizer.state_dict()}, checkpoint)


def train_step(compiled: Compiled, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """One step of the optimizer on a batch of images and labels; the model is in training mode."""
    images, labels = batch
    compiled.controller.scheduler.step()
    loss = cross_entropy(compiled(images), labels) + compiled.controller.loss()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def accuracy(model: nn.Module, data: Fashion) -> float:
    """The percentage of the test images that `model` puts into the right class."""
    return 100 * int((answers(model, data.test_images) == data.test_labels).sum()) / len(data.test_labels)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The class that `model`, in inference mode, finds for each image."""
    model.eval()
    return torch.cat([model(part).argmax(1) for part in images.split(500)])


def _resume(compiled: Compiled, optimizer: torch.optim.Optimizer, checkpoint: Path) -> int:
    """The epoch to go on with."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    compiled.load_checkpoint(saved["compiled"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["epoch"]


def _save(state: Any, path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
