"""Multiply masks into the weights behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.edit import insert_constant, name_of
from fxcompress.masks.mask import mask_of, masked, masks
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class FoldMasks(Pass):
    """Put zeros into weights for the masks in front of them, of whatever pass: training can fill them from then on."""

    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        made = []
        for call, constant in list(masks(graph_module)):
            value = masked(graph_module, call)
            name = f"{name_of(constant)}_masked"
            after = call.next
            made.append(insert_constant(graph_module, name, value, before=after, created_by=self.name, replaces=constant))
            made[-1].meta |= {key: constant.meta[key] for key in ("val", "scope", "stack_trace") if key in constant.meta}
            for reader in [user for user in call.users if mask_of(graph_module, user) is None]:
                reader.replace_input_with(call, made[-1])
        return [Replacement.at(node) for node in made]
