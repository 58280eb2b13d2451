"""Regions: what a runtime computes in one kernel, an operation and those that are fused to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx

from fxcompress.ir.dialect import IDLE
from fxcompress.targets.table import Target


def fused_chain(node: fx.Node, fused: Collection[object]) -> Iterator[fx.Node]:
    """`node`, then each operation of `fused` that alone reads the one before it, and the dropouts between them."""
    yield node
    between: list[fx.Node] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target in fused:
            yield from (*between, node)
            between = []
        elif node.target in IDLE:
            between.append(node)
        else:
            return


def behind_dropouts(value: fx.Node) -> fx.Node:
    """What `value` is outside training: the value that dropouts, which alone read it, let pass."""
    while value.target in IDLE and isinstance(source := value.args[0], fx.Node) and len(source.users) == 1:
        value = source
    return value


def mark_regions(graph: fx.Graph, target: Target) -> None:
    """Name the kernels of the target: an operation that computes, and what is fused to it."""
    for node in graph.nodes:
        if node.target in target.kernels and "region" not in node.meta:
            chain = list(fused_chain(node, target.fused))
            for member in chain if len(chain) > 1 else ():
                member.meta["region"] = node.name
