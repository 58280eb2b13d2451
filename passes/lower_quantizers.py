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
from fxcompress.masks.mask import constant_behind
from fxcompress.quantization.integers import read_by_integer_kernels, store_weight
from fxcompress.quantizers.ops import DEQUANTIZE, INTEGER_RANGES, QUANTIZE, STORAGE
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.report.units import listed
from fxcompress.rewrite.rule import Replacement
from fxcompress.storage.memory import give_back

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
        rewritten, integer = [], read_by_integer_kernels(graph_module, context.target)
        beyond: list[str] = []
        for node in graph_module.graph.find_nodes(op="call_module"):
            module = graph_module.get_submodule(node.target)
            if isinstance(module, Quantizer):
                if not module.ready:
                    raise PlanError(f"the quantizer {describe(node)} has no range; list Calibrate() after Quantize()")
                if self._lower(graph_module, node, module, integer):
                    beyond.append(node.name.removesuffix("_quantizer"))
                rewritten.append(Replacement.at(node))
        if beyond:
            context.notes.append(
                f"neighbours in {listed(beyond)} are larger than when they were quantized, or their ranges narrower: on x86 "
                "CPUs without VNNI sums of them may saturate; Quantize(reduce_range=True) keeps them from it in any training"
            )
        return rewritten

    def _lower(self, graph_module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, integer: set[fx.Node]) -> bool:
        """Replace the call `node` of `quantizer`; whether neighbouring weights add up to more than they should."""
        if quantizer.enabled and constant_behind(graph_module, node.args[0]) is not None:
            in_integers = node in integer
            stored = store_weight(graph_module, node, quantizer, in_integers=in_integers, created_by=self.name)
            beyond = in_integers and bool(quantizer.pairs_beyond(stored).any())
            give_back()
            return beyond
        value = self._lower_activation(graph_module, node, quantizer) if quantizer.enabled else node.args[0]
        node.replace_all_uses_with(value)
        graph_module.graph.erase_node(node)
        return False

    def _lower_activation(self, graph_module: fx.GraphModule, node: fx.Node, quantizer: Quantizer) -> fx.Node:
        """No runtime computes values of fewer than 8 bits: they are clamped to their range, and quantized in 8."""
        stem, signed, point = node.name.removesuffix("_quantizer"), quantizer.signed, quantizer.zero_point
        if signed and point.any():  # both runtimes take such values in unsigned bytes
            signed, point = False, point - INTEGER_RANGES["int8"][0]
        kind = "int8" if signed else "uint8"
        value = self._saturate(node.args[0], quantizer, INTEGER_RANGES[kind], point, node)
        scale = self._constant(graph_module, f"{stem}_scale", quantizer.scale, node)
        zero_point = self._constant(graph_module, f"{stem}_zero_point", point.to(STORAGE[kind]), node)
        grid, like = (scale, zero_point, quantizer.spec.scale_axis, kind, 0), value.meta["val"].to(STORAGE[kind])
        quantized = self._call(QUANTIZE, value, *grid, node=node, name=f"{stem}_quantize", like=like)
        return self._call(DEQUANTIZE, quantized, *grid, node=node, name=f"{stem}_dequantize", like=node.meta["val"])

    def _saturate(
        self, value: fx.Node, quantizer: Quantizer, held: tuple[int, int], point: torch.Tensor, node: fx.Node
    ) -> fx.Node:
        """`value`, clamped where the grid leaves out levels that are `held`, around `point`, by the type in the file."""
        low, high = (level - quantizer.zero_point + point for level in quantizer.levels)
        if (low == held[0]).all() and (high == held[1]).all():
            return value
        if quantizer.scale.dim():
            raise PlanError(f"{describe(node)}: activations of {quantizer.spec.bits} bits can be lowered per tensor only")
        bounds = ((level - float(quantizer.zero_point)) * float(quantizer.scale) for level in quantizer.levels)
        return self._call(CLAMP, value, *bounds, node=node, name=f"{node.name}_clamp", like=value.meta["val"])

    def _call(self, target, *args: object, node: fx.Node, name: str, like: torch.Tensor) -> fx.Node:
        return insert_function(target, *args, name=name, value=like, before=node, created_by=self.name)

    def _constant(self, graph_module: fx.GraphModule, name: str, value: torch.Tensor, node: fx.Node) -> fx.Node:
        return insert_constant(graph_module, name, value.detach().clone(), before=node, created_by=self.name)
