"""Take masked filters out of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.channels import analyze
from fxcompress.channels.counting import count_all
from fxcompress.channels.masking import pin_indices, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.cost import cost
from fxcompress.masks.mask import masks
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class RemoveFilters(Pass):
    """Remove the channels that masks leave nothing of, from weights, biases and norms, and from all that is downstream.

    A channel goes where every weight that makes it, scales it or reads it is masked there; `PruneFilters` masks all of them.
    Masks of single weights stay, smaller, and so do those of filters that cannot be removed. Quantizers of weights lose the
    scales of what is removed, and the float model that later passes compare with the same channels.

    Raises:
        VerificationError: a size came out other than the channel analysis foretold.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if not any(masks(graph_module)):
            return []
        before = cost(graph_module)
        removal = Removal(analyze(graph_module, pin_what_is_not_masked))
        kept = removal.kept_of_constants()
        made = removal.apply(self.name) + count_all(graph_module)
        if context.reference is not None:
            Removal(analyze(context.reference, lambda channels: pin_indices(channels, kept))).apply(self.name)
            count_all(context.reference)
        context.notes.append(f"from {before} to {cost(graph_module)}")
        return [Replacement.at(node) for node in made]
