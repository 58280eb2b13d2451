"""Which operations have kernels that read parameters: those that a pass over weights treats, or names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.ir.edit import attribute

_MOVES = frozenset(
    {"cat", "stack", "expand", "repeat", "select", "slice", "view", "reshape"}
    | {"permute", "transpose", "unsqueeze", "squeeze", "flatten"}
)


def parameter_readers(graph_module: fx.GraphModule) -> dict[fx.Node, set[str]]:
    """The operations on activations that read parameters of two or more axes, or values computed from them alone.

    Each comes with the names of the parameters. Operations on single values, such as the addition of a table of positions,
    and those that only move values have no kernel with weights.
    """
    held: dict[fx.Node, set[str]] = {}  # of what depends on no input: the parameters behind it
    found: dict[fx.Node, set[str]] = {}
    for node in graph_module.graph.nodes:
        reads = node.all_input_nodes
        if node.op == "get_attr":
            value = attribute(graph_module, str(node.target))
            held[node] = {str(node.target)} if isinstance(value, torch.nn.Parameter) else set()
        elif reads and node.op != "output" and all(one in held for one in reads):
            held[node] = set().union(*(held[one] for one in reads))
        elif node.op == "call_function" and _has_kernel(node):
            weights = [held[one] for one in reads if one in held and one.meta["val"].dim() > 1]
            if any(weights):
                found[node] = set().union(*weights)
    return found


def untreated(
    graph_module: fx.GraphModule, treated: Collection[fx.Node], constants: Collection[str], reason: str
) -> dict[fx.Node, str]:
    """Those of `parameter_readers` that a pass left as they are, each with `reason`.

    `treated` are operations that it treated or has named already; so are the readers of the `constants` alone that it treated.
    """
    readers = parameter_readers(graph_module).items()
    return {node: reason for node, names in readers if node not in treated and not names <= set(constants)}


def by_reason(reasons: Mapping[fx.Node, str]) -> dict[str, list[str]]:
    """The names of the operations for each reason."""
    found: dict[str, list[str]] = {}
    for node, reason in reasons.items():
        found.setdefault(reason, []).append(node.name)
    return found


def _has_kernel(node: fx.Node) -> bool:
    """Whether `node` does more than compute on single values, or move them."""
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    return torch.Tag.pointwise not in target.tags and target.overloadpacket.__name__ not in _MOVES
