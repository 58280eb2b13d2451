"""Remove dropout, which does nothing at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import source_line
from fxcompress.ir.dialect import IDLE
from fxcompress.ir.signature import argument
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class RemoveDropout(Pass):
    """Replace each dropout in inference mode by its input."""

    effect: ClassVar[Effect] = Effect.EXACT
    breaks: ClassVar[frozenset[str]] = frozenset({"trainable"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        rewritten = []
        for target in IDLE:
            for node in graph_module.graph.find_nodes(op="call_function", target=target):
                if not argument(node, "train"):
                    x = node.args[0]
                    node.replace_all_uses_with(x)
                    graph_module.graph.erase_node(node)  # random operations are never removed as dead code
                    rewritten.append(Replacement("", node.name, x.name, source_line(node)))
        return rewritten
