"""Leave out activations that the quantizer after them performs anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import source_line
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute
from fxcompress.quantizers.ops import INTEGER_RANGES, QUANTIZE
from fxcompress.rewrite.rule import Replacement

RELU, CLAMP = resolve("relu"), resolve("clamp")


@dataclass(frozen=True, kw_only=True)
class AbsorbClamps(Pass):
    """Remove a ReLU or clamp that only a quantizer reads and whose bounds that quantizer saturates at.

    Quantization is monotonic and saturates, so ``quantize(clamp(x, a, b)) == quantize(x)`` exactly where a quantizes to the
    lowest integer and b to the highest: a ReLU before an unsigned grid with zero point 0, a ReLU6 before one that ends at 6.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        rewritten = []
        for node in graph_module.graph.find_nodes(op="call_function", target=QUANTIZE):
            clamp = node.args[0]
            if clamp.target in (RELU, CLAMP) and len(clamp.users) == 1 and self._saturates(graph_module, node, clamp):
                node.replace_input_with(clamp, clamp.args[0])
                rewritten.append(Replacement("", clamp.name, node.name, source_line(clamp)))
        return rewritten

    @staticmethod
    def _saturates(graph_module: fx.GraphModule, node: fx.Node, clamp: fx.Node) -> bool:
        """Whether the quantizer `node` maps the bounds of `clamp` to the ends of its grid."""
        _, scale, zero_point, axis, dtype, *_ = node.args
        low, high = (0.0, None) if clamp.target is RELU else (*clamp.args[1:], None, None)[:2]
        if axis is not None:
            return False
        grid = attribute(graph_module, scale.target), attribute(graph_module, zero_point.target), axis, dtype
        ends = torch.tensor([-torch.inf if low is None else low, torch.inf if high is None else high])
        return tuple(QUANTIZE(ends, *grid).tolist()) == INTEGER_RANGES[dtype]
