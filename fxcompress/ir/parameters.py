"""Which operations have kernels that read parameters: those that a pass over weights treats, or names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.ir.constants import behind, constants
from fxcompress.ir.edit import owner_of

_MOVES = frozenset(
    {"cat", "stack", "expand", "repeat", "select", "slice", "view", "reshape"}
    | {"permute", "transpose", "unsqueeze", "squeeze", "flatten"}
)


def parameter_readers(graph_module: fx.GraphModule) -> dict[fx.Node, set[str]]:
    """The operations on activations that read weights of two or more axes, or values computed from them alone.

    Each comes with the names of these weights: parameters, and buffers that are saved with the model. Operations on single
    values, such as the addition of a table of positions, and those that only move values have no kernel with weights.
    """
    known, found = constants(graph_module.graph), dict[fx.Node, set[str]]()
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node not in known and _has_kernel(node):
            read = [one for one in node.all_input_nodes if one in known and one.meta["val"].dim() > 1]
            names = weights_behind(graph_module, read)
            if names:
                found[node] = names
    return found


def weights_behind(graph_module: fx.GraphModule, nodes: Iterable[fx.Node]) -> set[str]:
    """The names of the weights that the constants `nodes` are, or are computed from."""
    names = {str(held.target) for node in nodes for held in behind(node)}
    return {name for name in names if _is_weight(graph_module, name)}


def untreated(
    graph_module: fx.GraphModule, treated: Collection[fx.Node], constants: Iterable[fx.Node], reason: str
) -> dict[fx.Node, str]:
    """Those of `parameter_readers` that a pass left as they are, each with `reason`.

    `treated` are operations that it treated or has named already; so are the readers of the `constants` alone that it treated.
    """
    readers, done = parameter_readers(graph_module).items(), weights_behind(graph_module, constants)
    return {node: reason for node, names in readers if node not in treated and not names <= done}


def by_reason(reasons: Mapping[fx.Node, str]) -> dict[str, list[str]]:
    """The names of the operations for each reason."""
    found: dict[str, list[str]] = {}
    for node, reason in reasons.items():
        found.setdefault(reason, []).append(node.name)
    return found


def _is_weight(graph_module: fx.GraphModule, name: str) -> bool:
    """Whether the tensor `name` is a parameter, or a buffer of floats that is saved with the model."""
    owner, _, leaf = owner_of(graph_module, name), *name.rpartition(".")[1:]
    if leaf in owner._parameters:
        return True
    return leaf not in owner._non_persistent_buffers_set and bool(owner._buffers[leaf].is_floating_point())  # type: ignore[union-attr]


def _has_kernel(node: fx.Node) -> bool:
    """Whether `node` does more than compute on single values, or move them."""
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    return torch.Tag.pointwise not in target.tags and target.overloadpacket.__name__ not in _MOVES
