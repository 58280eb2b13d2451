"""Turn simulated binarization into integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.binarization.binarizers import ActivationBinarizer, Binarizer, WeightBinarizer
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import called, insert_constant, insert_function
from fxcompress.masks.mask import masked
from fxcompress.quantizers.ops import DEQUANTIZE, QUANTIZE, UNPACK, pack
from fxcompress.rewrite.rule import Replacement

GREATER, WHERE = resolve("gt"), resolve("where")


@dataclass(frozen=True, kw_only=True)
class LowerBinarizers(Pass):
    """Replace the binarizers of weights by integers -1 and 1, those of activations by a comparison and 8-bit integers.

    A weight of zero, which a mask has left, is the integer 0. Weights lie two in a byte, which is the fewest bits that both
    runtimes read, and are bytes for their kernels.
    An activation of 0 and s, quantized with the scale s, is the integer 0 or 1: nothing is rounded, and the convolution has
    integer operands. A binarizer that is not enabled is left out.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        rewritten = []
        for node in graph_module.graph.find_nodes(op="call_module"):
            if binarizer := called(graph_module, node, Binarizer):
                node.replace_all_uses_with(self._lowered(graph_module, node, binarizer))
                graph_module.graph.erase_node(node)
                rewritten.append(Replacement.at(node))
        return rewritten

    def _lowered(self, graph_module: fx.GraphModule, node: fx.Node, binarizer: Binarizer) -> fx.Node:
        """What stands for `node` from now on."""
        if not binarizer.enabled:
            return node.args[0]
        if isinstance(binarizer, WeightBinarizer):
            return self._lower_weight(graph_module, node, binarizer)
        assert isinstance(binarizer, ActivationBinarizer)
        return self._lower_activation(graph_module, node, binarizer)

    def _lower_weight(self, graph_module: fx.GraphModule, node: fx.Node, binarizer: WeightBinarizer) -> fx.Node:
        weight = masked(graph_module, node.args[0])
        stem = node.name.removesuffix("_binarizer")
        constant = partial(self._constant, graph_module, node, stem)
        signs, scale, axis = binarizer.signs(weight), binarizer.scale(weight), 0 if binarizer.per_filter else None
        packed, shape = constant("signs", pack(signs)), list(signs.shape)
        held = self._call(node, UNPACK, packed, shape, "int4", name=f"{stem}_unpack", value=signs.to("meta"))
        grid = (constant("scale", scale), constant("zero_point", torch.zeros_like(scale, dtype=torch.int8)), axis, "int4")
        return self._call(node, DEQUANTIZE, held, *grid, 0, True, name=f"{stem}_dequantize")

    @torch.no_grad()
    def _lower_activation(self, graph_module: fx.GraphModule, node: fx.Node, binarizer: ActivationBinarizer) -> fx.Node:
        stem, like = node.name.removesuffix("_binarizer"), node.meta["val"]
        constant = partial(self._constant, graph_module, node, stem)
        scale, zero = constant("scale", binarizer.scale), constant("zero", torch.zeros(()))
        grid = (scale, constant("zero_point", torch.zeros((), dtype=torch.uint8)), None, "uint8")
        threshold = constant("threshold", binarizer.threshold)
        above = self._call(node, GREATER, node.args[0], threshold, name=f"{stem}_above", value=like.to(torch.bool))
        levels = self._call(node, WHERE, above, scale, zero, name=f"{stem}_levels")
        quantized = self._call(node, QUANTIZE, levels, *grid, name=f"{stem}_quantize", value=like.to(torch.uint8))
        return self._call(node, DEQUANTIZE, quantized, *grid, name=f"{stem}_dequantize")

    def _constant(self, graph_module: fx.GraphModule, node: fx.Node, stem: str, what: str, value: Tensor) -> fx.Node:
        value = value.detach().clone()
        return insert_constant(graph_module, f"{stem}_{what}", value, before=node, created_by=self.name)

    def _call(self, node: fx.Node, target, *args: object, name: str, value: Tensor | None = None) -> fx.Node:
        value = node.meta["val"] if value is None else value
        return insert_function(target, *args, name=name, value=value, before=node, created_by=self.name)
