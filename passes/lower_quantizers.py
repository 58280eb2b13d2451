"""Turn simulated quantization into integers: the last step before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxcompress.builder import add_attribute
from fxcompress.dialect import resolve
from fxcompress.effect import Effect
from fxcompress.errors import PlanError, describe
from fxcompress.masks import constant_behind, masked
from fxcompress.pipeline import Context, Pass
from fxcompress.quantization.ops import INTEGER_RANGES, STORAGE
from fxcompress.quantization.quantizer import Quantizer
from fxcompress.rewrite import Replacement

QUANTIZE = torch.ops.fxcompress.quantize.default
DEQUANTIZE = torch.ops.fxcompress.dequantize.default
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
        grid = (quantizer.spec.scale_axis, quantizer.dtype, quantizer.spec.group_size or 0)
        with graph_module.graph.inserting_before(node):
            scale = self._constant(graph_module, f"{stem}_scale", quantizer.scale, node)
            zero_point = self._constant(graph_module, f"{stem}_zero_point", quantizer.zero_point.to(integer), node)
            if constant_behind(graph_module, value) is not None:
                integers = quantizer.integers(masked(graph_module, value)).to(integer)
                quantized = self._constant(graph_module, f"{stem}_{quantizer.dtype}", integers, node)
            else:
                value = self._saturate(value, quantizer, node)
                like = value.meta["val"].to(integer)
                quantized = self._call(QUANTIZE, (value, scale, zero_point, *grid), node, f"{stem}_quantize", like)
            dequantized = self._call(
                DEQUANTIZE, (quantized, scale, zero_point, *grid), node, f"{stem}_dequantize", node.meta["val"]
            )
        node.replace_all_uses_with(dequantized)
        graph_module.graph.erase_node(node)

    def _saturate(self, value: fx.Node, quantizer: Quantizer, node: fx.Node) -> fx.Node:
        """`value`, clamped where the grid leaves out levels of the type that holds it."""
        if quantizer.levels == INTEGER_RANGES[quantizer.dtype]:
            return value
        if quantizer.scale.dim():
            raise PlanError(f"{describe(node)}: activations of {quantizer.spec.bits} bits can be lowered per tensor only")
        low, high = ((level - float(quantizer.zero_point)) * float(quantizer.scale) for level in quantizer.levels)
        return self._call(CLAMP, (value, low, high), node, f"{node.name}_clamp", value.meta["val"])

    def _call(self, target, args: tuple, node: fx.Node, name: str, like: object) -> fx.Node:
        return self._describe(node.graph.create_node("call_function", target, args, name=name), node, like)

    def _constant(self, graph_module: fx.GraphModule, name: str, value: torch.Tensor, node: fx.Node) -> fx.Node:
        name = add_attribute(graph_module, name, value.detach().clone())
        return self._describe(node.graph.create_node("get_attr", name, name=name), node, value)

    def _describe(self, made: fx.Node, node: fx.Node, like: object) -> fx.Node:
        made.meta = {key: node.meta[key] for key in ("scope", "stack_trace", "region") if key in node.meta}
        made.meta |= {"val": like, "created_by": self.name}
        return made
