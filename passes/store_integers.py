"""Keep of quantized weights the integers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.constants import behind
from fxcompress.masks.mask import constant_behind
from fxcompress.quantization.integers import read_by_integer_kernels, store_weight
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.rewrite.rule import Replacement
from fxcompress.storage.memory import give_back


@dataclass(frozen=True, kw_only=True)
class StoreIntegers(Pass):
    """Put the integers of quantized weights in the place of the floats that they are rounded from: list it last.

    The compiled model then takes the memory of its file. Its outputs and its file are the same to the last bit. What it costs:
    these weights can be trained no further, and no sensitivity is measured of them. Quantizers that learn, and those that are
    switched off, keep their floats.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})
    frees_floats: ClassVar[bool] = True

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        stored, in_integers = [], read_by_integer_kernels(graph_module, context.target)
        for node, quantizer in quantizer_calls(graph_module).items():
            if type(quantizer) is not Quantizer or not (quantizer.ready and quantizer.enabled and serves_weight(node)):
                continue
            constant = constant_behind(graph_module, node.args[0])  # type: ignore[arg-type]
            if constant is not None:
                stored.append(Replacement.at(node))
                store_weight(graph_module, node, quantizer, in_integers=node in in_integers, created_by=self.name)
                context.let_go |= {str(one.target) for one in behind(constant)}
                give_back()
        return stored
