"""Learn in training which weights to do without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.masks.learned import LearnedMask, MaskGroup
from fxcompress.pattern.scopes import Scope
from fxcompress.rewrite.rule import Replacement
from fxcompress.sparsity.insertion import mask_weights, maskable_layers, masks_of
from fxcompress.training.levels import Epoch, Exponential, Schedule, check_schedule
from fxcompress.training.sparsity import LearnedSparsityController

SCHEDULE = Exponential(epochs=90)


@dataclass(frozen=True, kw_only=True)
class LearnSparsity(Pass):
    """Give the weights of convolutions and linear layers masks that are learned with them (`fxcompress.learned_masks`).

    Every weight has a logit, a parameter of the model, and is masked in training as often as it says. The controller's loss
    asks for the share of zeros that the schedule has come to, and the training loss says which. The optimizer must have the
    masks' parameters, ``compiled.parameters()``; Adam suits them, since their gradients are small. Binarized layers stay.

    A file has the share of zeros that is asked for, of the weights whose logits are lowest, as soon as training draws as many;
    until then, as many as training draws. `compression_stage` says which.

    Args:
        level: the share of the weights to mask in the end.
        schedule: how training gets there (see `fxcompress.training.levels`); None asks for `level` from the start.
        freeze_epoch: from it on, masks are those that a file would hold, and the loss is zero; None for never.
        learning_rate_multiplier: of the gradients of the masks.
        scopes: mask the weights in these scopes alone (see `fxcompress.scopes.select`); None for all.
        ignored: scopes whose weights stay (see `fxcompress.scopes.select`).

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
        InputError: an option cannot be used.
    """

    level: Annotated[float, Ge(0), Lt(1)] = 0.5
    schedule: Schedule | None = SCHEDULE
    freeze_epoch: Epoch | None = None
    learning_rate_multiplier: Annotated[float, Ge(0)] = 1.0
    scopes: Iterable[Scope] | None = None
    ignored: Iterable[Scope] = ()

    effect: ClassVar[Effect] = Effect.LOSSY

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.level)

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        layers = maskable_layers(graph_module, self.ignored, context.notes, self.scopes)
        masks = {
            layer.constant: LearnedMask(layer.constant.meta["val"].shape, self.learning_rate_multiplier) for layer in layers
        }
        MaskGroup(list(masks.values())).ask(self.level if self.schedule is None else self.schedule.initial)
        for mask in masks.values():
            mask.eval()
        return [Replacement.at(node) for node in mask_weights(graph_module, masks, self, context.reference)]

    def controller(self, graph_module: fx.GraphModule) -> LearnedSparsityController | None:
        """See `LearnedSparsityController`; None where no weight has a mask."""
        masks = masks_of(graph_module, self)
        given = self.schedule, self.level, self.freeze_epoch
        return LearnedSparsityController(graph_module, masks, *given) if masks else None
