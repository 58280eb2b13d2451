"""Regions: what a runtime computes in one kernel, an operation and those that are fused to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx

from fxcompress.targets.table import Target


def fused_chain(node: fx.Node, fused: Collection[object]) -> Iterator[fx.Node]:
    """`node`, then each operation of `fused` that alone reads the one before it."""
    yield node
    while len(node.users) == 1 and (node := next(iter(node.users))).target in fused:
        yield node


def mark_regions(graph: fx.Graph, target: Target) -> None:
    """Name the kernels of the target: an operation that computes, and what is fused to it."""
    for node in graph.nodes:
        if node.target in target.kernels and "region" not in node.meta:
            chain = list(fused_chain(node, target.fused))
            for member in chain if len(chain) > 1 else ():
                member.meta["region"] = node.name
