"""Recognise activations that a model spells out in smaller operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.patterns.activation import CANONICALIZE_ACTIVATIONS
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class CanonicalizeActivations(Pass):
    """Replace composed hardswish, hardsigmoid, SiLU, GELU, Mish and leaky ReLU by the one operation that they are."""

    effect: ClassVar[Effect] = Effect.ROUNDING
    gives: ClassVar[frozenset[str]] = frozenset({"activations-canonical"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        return context.apply(CANONICALIZE_ACTIVATIONS, graph_module)
