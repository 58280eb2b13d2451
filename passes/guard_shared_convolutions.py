"""Keep OpenVINO from mixing up the readers of an integer convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_constant
from fxcompress.ir.signature import argument
from fxcompress.quantizers.ops import DEQUANTIZE
from fxcompress.rewrite.rule import Replacement

CONVOLUTIONS = tuple(map(resolve, ("conv1d", "conv2d", "conv3d", "conv_transpose2d")))


@dataclass(frozen=True, kw_only=True)
class GuardSharedConvolutions(Pass):
    """Give a bias, the smallest there is, to integer convolutions without one whose result several operations read.

    OpenVINO 2026.4 computes ``y + exp(y)`` wrongly where y is such a convolution: it fuses the dequantization of y into one
    of the readers. A bias of zero is optimised away before that; the smallest normal number is not, and changes nothing
    that a float32 sum can show. Runtimes that do not need this (`Target.mixes_shared_convolutions`) are spared it.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({"lowered"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if not context.target.mixes_shared_convolutions:
            return []
        rewritten = []
        for target in CONVOLUTIONS:
            for node in graph_module.graph.find_nodes(op="call_function", target=target):
                if _reads(node) > 1 and node.args[1].target is DEQUANTIZE and _adds_nothing(graph_module, node):
                    self._give_bias(graph_module, node)
                    rewritten.append(Replacement.at(node))
        return rewritten

    def _give_bias(self, graph_module: fx.GraphModule, node: fx.Node) -> None:
        channels = int(node.meta["val"].shape[1])
        smallest = torch.full((channels,), torch.finfo(torch.float32).tiny)
        name = f"{node.name}_guard_bias"
        bias = insert_constant(graph_module, name, smallest, before=node, created_by=self.name)
        node.args = (*node.args[:2], bias, *node.args[3:])


def _reads(node: fx.Node) -> int:
    """How many arguments `node` is, counting both operands of ``y + y``."""
    return sum(leaf is node for user in node.users for leaf in pytree.tree_leaves((user.args, user.kwargs)))


def _adds_nothing(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the convolution `node` has no bias, or one of zeros."""
    bias = argument(node, "bias")
    return bias is None or (bias.op == "get_attr" and not attribute(graph_module, bias.target).any())
