"""Places in a model by name: module paths, globs, node names and operations."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import fx

from fxcompress.errors import ScopeError, did_you_mean


def select(graph: fx.Graph, scopes: Iterable[str]) -> set[fx.Node]:
    """The nodes that any of `scopes` names.

    A scope is a module path (``"layer1.0"``: that module and all below it), a glob over module paths
    (``"layer*.conv1"``), a node's name (``"layer1_0_add"``), or an operation (``"op:conv2d"``).

    Raises:
        ScopeError: a scope matches nothing; the nearest names are suggested.
    """
    found: set[fx.Node] = set()
    for scope in scopes:
        matched = {node for node in graph.nodes if scope in _names(node) or _globbed(node, scope)}
        if not matched:
            hint = did_you_mean(scope, {name for node in graph.nodes for name in _names(node)})
            raise ScopeError(f"scope {scope!r} matches nothing in the model{hint}; print(compiled.text()) shows all names")
        found |= matched
    return found


def _names(node: fx.Node) -> list[str]:
    """All the scopes that name `node` exactly: itself, its operation, and each module around it."""
    path = node.meta.get("scope", "").split(".")
    around = [".".join(path[:end]) for end in range(1, len(path) + 1)]
    return [node.name, operation(node), *filter(None, around)]


def operation(node: fx.Node) -> str:
    """``"op:conv2d"`` for a call of ``aten.conv2d.default``; ``"op:get_attr"`` and the like for other nodes."""
    packet = getattr(node.target, "overloadpacket", None)
    return f"op:{packet.__name__ if packet else node.op}"


def _globbed(node: fx.Node, scope: str) -> bool:
    return any(c in scope for c in "*?[") and any(fnmatch.fnmatchcase(name, scope) for name in _names(node))
