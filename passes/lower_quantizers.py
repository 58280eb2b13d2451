"""Turn simulated quantization into integers: the last step before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import PlanError, describe
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import insert_constant, insert_function
from fxcompress.masks.mask import constant_behind, masked
from fxcompress.quantizers.ops import DEQUANTIZE, INTEGER_RANGES, QUANTIZE, STORAGE
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.rewrite.rule import Replacement

CLAMP = resolve("clamp")


@dataclass(frozen=True, kw_only=True)
class LowerQuantizers(Pass):
    """Replace each quantizer by a pair of quantize and dequantize, and each quantized weight by its integers.

    Raises:
        PlanError: a quantizer has no range yet.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    gives: ClassVar[frozenset[str]] = frozenset({"lowered"})
    breaks: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        rewritten = []
        for node in graph_module.graph.find_nodes(op="call_module"):
            module = graph_module.get_submodule(node.target)
            if isinstance(module, Quantizer):
                if not module.ready:
                    raise PlanError(f"the quantizer {describe(node)} has no range; list Calibrate() after Quantize()")
                if module.enabled:
                    self._lower(graph_module, node, module)
                else:
                    node.replace_all_uses_with(node.args[0])
                    graph_module.graph.erase_node(node)
                rewritten.append(Replacement.at(node))
        return rewritten

    def _lower(self, graph_module: fx.GraphModule, node: fx.Node, quantizer: Quantizer) -> None:
        """Node by node: clamp where the grid is smaller than its type, quantize, dequantize."""
        value, stem = node.args[0], node.name.removesuffix("_quantizer")
        integer = STORAGE[quantizer.dtype]
        scale = self._constant(graph_module, f"{stem}_scale", quantizer.scale, node)
        zero_point = self._constant(graph_module, f"{stem}_zero_point", quantizer.zero_point.to(integer), node)
        grid = (scale, zero_point, quantizer.spec.scale_axis, quantizer.dtype, quantizer.spec.group_size or 0)
        if constant_behind(graph_module, value) is not None:
            integers = quantizer.integers(masked(graph_module, value)).to(integer)
            quantized = self._constant(graph_module, f"{stem}_{quantizer.dtype}", integers, node)
        else:
            value = self._saturate(value, quantizer, node)
            quantized = self._call(
                QUANTIZE, value, *grid, node=node, name=f"{stem}_quantize", like=value.meta["val"].to(integer)
            )
        dequantized = self._call(DEQUANTIZE, quantized, *grid, node=node, name=f"{stem}_dequantize", like=node.meta["val"])
        node.replace_all_uses_with(dequantized)
        graph_module.graph.erase_node(node)

    def _saturate(self, value: fx.Node, quantizer: Quantizer, node: fx.Node) -> fx.Node:
        """`value`, clamped where the grid leaves out levels of the type that holds it."""
        if quantizer.levels == INTEGER_RANGES[quantizer.dtype]:
            return value
        if quantizer.scale.dim():
            raise PlanError(f"{describe(node)}: activations of {quantizer.spec.bits} bits can be lowered per tensor only")
        low, high = ((level - float(quantizer.zero_point)) * float(quantizer.scale) for level in quantizer.levels)
        return self._call(CLAMP, value, low, high, node=node, name=f"{node.name}_clamp", like=value.meta["val"])

    def _call(self, target, *args: object, node: fx.Node, name: str, like: torch.Tensor) -> fx.Node:
        return insert_function(target, *args, name=name, value=like, before=node, created_by=self.name)

    def _constant(self, graph_module: fx.GraphModule, name: str, value: torch.Tensor, node: fx.Node) -> fx.Node:
        return insert_constant(graph_module, name, value.detach().clone(), before=node, created_by=self.name)
