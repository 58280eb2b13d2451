"""Fold batch norms into the convolutions and linear layers before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.patterns.conv import FOLD_BATCH_NORM
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Pass):
    """Scale the weight and shift the bias of a convolution or linear layer as the batch norm after it would.

    For inference: the running statistics become part of the weights. Jacob et al., arXiv 1712.05877, section 3.2.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING
    gives: ClassVar[frozenset[str]] = frozenset({"batch-norm-folded"})
    breaks: ClassVar[frozenset[str]] = frozenset({"trainable"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        return context.apply(FOLD_BATCH_NORM, graph_module)
