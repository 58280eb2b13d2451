"""Fold batch norms into the convolutions and linear layers before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import is_trained
from fxcompress.ir.signature import argument
from fxcompress.patterns.conv import FOLD_BATCH_NORM
from fxcompress.rewrite.rule import Replacement

_BATCH_NORM = resolve("batch_norm")


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Pass):
    """Scale the weight and shift the bias of a convolution or linear layer as the batch norm after it would.

    For inference: the running statistics become part of the weights. Jacob et al., arXiv 1712.05877, section 3.2.

    A weight that is frozen stays frozen, and the bias is trained where it or the norm's was. So a norm's scale behind a frozen
    weight is no longer trained, which the report tells.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING
    gives: ClassVar[frozenset[str]] = frozenset({"batch-norm-folded"})
    breaks: ClassVar[frozenset[str]] = frozenset({"trainable"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        trained = {node.name for node in graph_module.graph.nodes if _trains_its_scale(graph_module, node)}
        done = context.apply(FOLD_BATCH_NORM, graph_module)
        layers = {node.name: node for node in graph_module.graph.nodes}
        lost = [one.root for one in done if one.root in trained and not is_trained(graph_module, layers[one.node].args[1])]
        if lost:
            context.note(
                f"the trained scales of {len(lost)} batch norms, the first is {lost[0]}, are part of frozen weights now and no "
                "longer trained; leave FoldBatchNorm() out to train them"
            )
        return done


def _trains_its_scale(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    gamma = argument(node, "weight") if node.target is _BATCH_NORM else None
    return isinstance(gamma, fx.Node) and gamma.op == "get_attr" and is_trained(graph_module, gamma)
