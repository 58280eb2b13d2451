"""Compute once what depends on parameters alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.constants import fold_computed
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Put one tensor for each weight that is computed from others: normalized, standardized, a sum of adapters, a slice.

    For inference: training would go on with that tensor, not with what it was computed from. To train, leave it out: weights
    that are computed are masked and quantized all the same, and files are written with what they are then.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    breaks: ClassVar[frozenset[str]] = frozenset({"trainable"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        half_weights = any(one.frees_floats for one in context.coming)
        return [Replacement.at(node) for node in fold_computed(graph_module, self.name, half_weights=half_weights)]
