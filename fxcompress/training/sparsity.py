"""The training loop's hold on sparse weights: masks of small weights, which follow a schedule, and masks that are learned."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, fx

from fxcompress.errors import InputError, did_you_mean, shown
from fxcompress.ir.constants import key_of
from fxcompress.ir.cost import readable_count
from fxcompress.ir.edit import attribute, value_of
from fxcompress.masks.learned import SHARPNESS, LearnedMask, density_loss
from fxcompress.masks.mask import Mask, last_mask, masked
from fxcompress.report.tables import titled
from fxcompress.sparsity import importance
from fxcompress.sparsity.layers import WeightedLayer, weighted_layers
from fxcompress.training.controller import CompressionStage, Statistics
from fxcompress.training.level_controller import LevelController
from fxcompress.training.levels import Schedule

_ROUNDING = 5e-3
"""How many zeros may be missing, of all weights, that logits of the same value keep."""

Ranking = Literal["global", "local"]


def smallest(weights: Sequence[Tensor], level: float, criterion: str, ranking: Ranking, *, keep_zeros: bool) -> list[Tensor]:
    """The share `level` of the elements of `weights` that matters least, of all together or of each: bool, a tensor each.

    A weight of nothing but zeros has none that matters less than others, and is left whole: it has yet to be trained, as
    adapters begin, and what is masked never is.

    Args:
        keep_zeros: whether other elements that are zero are among them, however many there are.
    """
    begun = [weight.detach().float() for weight in weights if weight.any()]
    scores = [importance.CRITERIA[criterion](weight) for weight in begun]
    if ranking == "local":
        found = iter([zeros for score in scores for zeros in importance.lowest([score], level)])
    else:
        found = iter(importance.lowest([score.to(scores[0].device) for score in scores], level) if scores else [])
    lowest = [next(found) if weight.any() else torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    if not keep_zeros:
        return lowest
    return [chosen | ((weight == 0) & weight.any()).to(chosen.device) for chosen, weight in zip(lowest, weights)]


class _MaskedLayers(LevelController):
    """What the two kinds of sparsity have in common: the layers with masks, and how sparse they are."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        masks: Mapping[fx.Node, Mask],
        schedule: Schedule | None,
        target: float,
        freeze_epoch: int | None = None,
    ):
        self.graph_module = graph_module
        by_name = {key_of(constant): mask for constant, mask in masks.items()}
        found = [layer for layer in weighted_layers(graph_module.graph) if key_of(layer.constant) in by_name]
        self.layers = {layer.node.name: layer for layer in found}
        self.masks = {name: by_name[key_of(layer.constant)] for name, layer in self.layers.items()}
        super().__init__(schedule, target, freeze_epoch)

    def weight(self, name: str) -> Tensor:
        """The weight of a layer behind its masks."""
        return value_of(self.graph_module, self.layers[name].constant)

    def statistics(self) -> Statistics:
        """A table of layers with their shape, zeros and share of the parameters, and one of the whole model."""
        zeros = {name: int((self._as_read(layer) == 0).sum()) for name, layer in self.layers.items()}
        sizes = {name: self.weight(name).numel() for name in self.layers}
        parameters = {id(p): p.numel() for p in self._parameters()}
        total = sum(parameters.values())
        layers = titled("Zeros by layer", "layer", "shape", "zeros", "of parameters", numbers=("zeros", "of parameters"))
        for name in self.layers:
            shape = " x ".join(map(str, self.weight(name).shape))
            layers.add_row(name, shape, f"{zeros[name] / sizes[name]:.1%}", f"{sizes[name] / total:.1%}")
        model = titled("Zeros of the model", "", "zeros", "of", "sparsity", numbers=("zeros", "of", "sparsity"))
        for part, count in (("these layers", sum(sizes.values())), ("all parameters", total)):
            share = sum(zeros.values()) / max(count, 1)
            model.add_row(part, readable_count(sum(zeros.values())), readable_count(count), f"{share:.1%}")
        return Statistics((layers, model))

    def _as_read(self, layer: WeightedLayer) -> Tensor:
        """The weight behind all masks that stand in front of the layer."""
        return masked(self.graph_module, last_mask(self.graph_module, layer.constant))

    def _parameters(self) -> list[Tensor]:
        """The parameters that the graph reads."""
        held = [attribute(self.graph_module, str(n.target)) for n in self.graph_module.graph.find_nodes(op="get_attr")]
        return [tensor for tensor in held if isinstance(tensor, torch.nn.Parameter)]


class SparsityController(_MaskedLayers):
    """Masks the smallest weights anew whenever the level changes, and leaves the masks alone until then.

    Masked weights get no gradient, and keep the values that they had when they were masked.

    Args:
        criterion: a key of `fxcompress.importance.CRITERIA`.
        ranking: ``"global"`` or ``"local"``.
        pattern: where weights are masked by a pattern, which has no level to set.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        masks: Mapping[fx.Node, Mask],
        criterion: str,
        ranking: Ranking,
        schedule: Schedule | None,
        target: float,
        pattern: str | None = None,
    ):
        super().__init__(graph_module, masks, schedule, target)
        self.criterion, self.ranking, self.pattern = criterion, ranking, pattern

    def set_level(self, level: float | Mapping[str, float]) -> None:
        """Mask this share now, of all layers or, by layer, of some: ``set_level({"conv1": 0.9})``; the others stay.

        It stays until the schedule's level changes.

        Raises:
            InputError: a level is not from 0 to below 1, a layer is none of these, or a pattern says what is masked.
        """
        if self.pattern is not None:
            raise InputError(f"the pattern {self.pattern!r} says which weights are masked; leave it out to set a level")
        if not isinstance(level, Mapping):
            super().set_level(level)
            return
        for name, share in level.items():
            if name not in self.layers:
                raise InputError(f"there is no sparse layer {shown(name)}{did_you_mean(name, self.layers)}")
            if not isinstance(share, numbers.Real) or not 0 <= share < 1:
                raise InputError(f"a level is from 0 to below 1, not {shown(share)}")
        for name, share in level.items():
            self._mask([name], share)

    def apply(self, level: float) -> None:
        self._mask(list(self.layers), level)

    @torch.no_grad()
    def _mask(self, names: list[str], level: float) -> None:
        weights, keep_zeros = [self.weight(name) for name in names], self.scheduler.schedule is None
        found = smallest(weights, level, self.criterion, self.ranking, keep_zeros=keep_zeros)
        for name, zeros in zip(names, found):
            self.masks[name].mask.copy_(~zeros)
        self.note(self.masks.values())

    def reached(self) -> float:
        """The share of the layers' weights that is masked."""
        zeros = sum(mask.zeros() for mask in self.masks.values())
        return zeros / max(sum(mask.mask.numel() for mask in self.masks.values()), 1)


class LearnedSparsityController(_MaskedLayers):
    """Moves the density that the loss asks of learned masks.

    Args:
        freeze_epoch: from it on the masks are those that a file would hold, the same in every pass, and the loss is zero.
    """

    masks: dict[str, LearnedMask]  # type: ignore[assignment]
    margin = SHARPNESS

    def apply(self, level: float) -> None:
        """The loss asks for it, and so much of it as training has come to is what a file has."""
        for mask in self.masks.values():
            mask.group.ask(level)

    def loss(self) -> Tensor:
        """How far the density of masks that are drawn for it is from what the level says (see `density_loss`)."""
        if self.scheduler.is_frozen or not self.masks:
            return torch.zeros(())
        return density_loss((mask.draw() for mask in self.masks.values()), 1 - self.scheduler.level)

    def freeze(self) -> None:
        for mask in self.masks.values():
            mask.settle()
        for mask in self.masks.values():
            mask.freeze()

    def compression_stage(self) -> CompressionStage:
        """Fully compressed where the target is asked for and a file that was written now would have it."""
        stage = super().compression_stage()
        short = stage is CompressionStage.FULLY_COMPRESSED and self.reached() < self.scheduler.level - _ROUNDING
        return CompressionStage.PARTIALLY_COMPRESSED if short else stage

    def reached(self) -> float:
        """The share of zeros of a file that was written now."""
        shares = [(mask.group.zeros(), mask.logits.numel()) for mask in self.masks.values()]
        return sum(share * count for share, count in shares) / max(sum(count for _, count in shares), 1)

    def statistics(self) -> Statistics:
        """As of other sparsity: the zeros of a file that was written now; and those to be expected in training."""
        reached, expected = self.reached(), [mask.group.expected() for mask in self.masks.values()]
        layers, model = super().statistics().tables
        model.add_row("in a file", "", "", f"{reached:.1%}")
        model.add_row("drawn in training", "", "", f"{sum(expected) / max(len(expected), 1):.1%}")
        model.add_row("asked for", "", "", f"{self.scheduler.level:.1%}")
        return Statistics((layers, model))
