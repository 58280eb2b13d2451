"""Places in a model by name: module paths, globs, node names and operations."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable

from torch import fx

from fxcompress.errors import ScopeError


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
            raise ScopeError(_unknown(scope, {name for node in graph.nodes for name in _names(node)}))
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


def _unknown(scope: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(scope, names, 3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "print(compiled.text()) shows all names"
    return f"scope {scope!r} matches nothing in the model; {hint}"
