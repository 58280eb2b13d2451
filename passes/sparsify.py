"""Mask the weights that matter least, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch import Tensor, fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError
from fxcompress.ir.edit import value_of
from fxcompress.masks.mask import Mask
from fxcompress.options import OneOf
from fxcompress.pattern.scopes import Scope
from fxcompress.rewrite.rule import Replacement
from fxcompress.sparsity.importance import CRITERIA, Pattern
from fxcompress.sparsity.insertion import mask_weights, maskable_layers, masks_of
from fxcompress.sparsity.layers import WeightedLayer
from fxcompress.training.levels import Schedule, check_schedule
from fxcompress.training.sparsity import Ranking, SparsityController, smallest


@dataclass(frozen=True, kw_only=True)
class Sparsify(Pass):
    """Mask single weights of convolutions and linear layers, the smallest ones; biases, norms and binarized layers stay.

    How small is judged from the weights behind all masks, so that it does not matter which other pass masks them too. Han
    et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv 1506.02626.

    Args:
        level: the share of the weights to mask, 0.5 unless a `pattern` says it. Without a schedule, weights that are zero
            already are masked in any case, and counted; with 0 they alone. A weight of nothing but zeros is yet to be trained,
            and stays whole.
        criterion: ``"normalized"`` takes each layer's weights for a share of their root sum of squares, ``"magnitude"`` as
            they are (`fxcompress.sparsity.CRITERIA`).
        ranking: ``"global"`` ranks the weights of all layers, ``"local"`` masks the same share of each.
        pattern: ``"2:4"`` keeps the 2 largest of every 4 consecutive inputs. Layers whose inputs do not divide into groups
            stay as they are, and are named in the report.
        scopes: mask the weights in these scopes alone (see `fxcompress.scopes.select`); None for all.
        ignored: scopes whose weights stay (see `fxcompress.scopes.select`).
        schedule: how training gets to `level` (see `fxcompress.training.levels`); None for all at once.

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
        InputError: an option cannot be used, or contradicts another.
    """

    level: Annotated[float, Ge(0), Lt(1)] | None = None
    criterion: Annotated[str, OneOf(CRITERIA)] = "normalized"
    ranking: Ranking = "global"
    pattern: str | None = None
    scopes: Iterable[Scope] | None = None
    ignored: Iterable[Scope] = ()
    schedule: Schedule | None = None

    effect: ClassVar[Effect] = Effect.LOSSY

    def __post_init__(self) -> None:
        if self.pattern is not None:
            Pattern.parse(self.pattern)
            if self.level is not None or self.schedule is not None:
                raise InputError("a pattern says how many weights are masked: leave out level and schedule")
        check_schedule(self.schedule, self._target)

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        layers = maskable_layers(graph_module, self.ignored, context.notes, self.scopes)
        weights = [value_of(graph_module, layer.constant) for layer in layers]
        zeros = self._zeros(layers, weights, context)
        masks = {layers[i].constant: Mask((~chosen).to(weights[i].dtype)) for i, chosen in zeros.items()}
        made = mask_weights(graph_module, masks, self, context.reference)
        masked, total = sum(int(chosen.sum()) for chosen in zeros.values()), sum(weight.numel() for weight in weights)
        share, when = masked / max(total, 1), "are"
        if self.schedule is not None:
            share, when = self._target, "will be"
        context.notes.insert(0, f"{share:.1%} of {total} weights in {len(layers)} layers {when} masked")
        return [Replacement.at(node) for node in made]

    def _zeros(self, layers: list[WeightedLayer], weights: list[Tensor], context: Context) -> dict[int, Tensor]:
        """Which elements to mask, by the position of the layer."""
        if self.pattern is None:
            level = self._target if self.schedule is None else self.schedule.initial
            whole = [layer.node.name for layer, weight in zip(layers, weights) if not weight.any()]
            if whole:
                context.notes.append(f"{', '.join(whole)} stay whole: all weights are zero, and have yet to be trained")
            keep_zeros = self.schedule is None
            return dict(enumerate(smallest(weights, level, self.criterion, self.ranking, keep_zeros=keep_zeros)))
        pattern = Pattern.parse(self.pattern)
        fitting = [i for i, layer in enumerate(layers) if pattern.fits(weights[i].shape[layer.input_axis])]
        left = [layer.node.name for i, layer in enumerate(layers) if i not in fitting]
        if left:
            context.notes.append(f"{', '.join(left)} stay: their inputs are no multiple of {pattern.group}")
        return {i: pattern.zeros(weights[i].abs(), layers[i].input_axis) for i in fitting}

    def controller(self, graph_module: fx.GraphModule) -> SparsityController | None:
        """See `SparsityController`; None where no weight has a mask."""
        masks = masks_of(graph_module, self)
        given = self.criterion, self.ranking, self.schedule, self._target, self.pattern
        return SparsityController(graph_module, masks, *given) if masks else None

    @property
    def _target(self) -> float:
        return 0.5 if self.level is None else self.level
