"""Places in a model: module paths, globs, node names, operations and patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import fx

from fxcompress.errors import InputError, ScopeError, did_you_mean
from fxcompress.pattern import Pattern
from fxcompress.pattern.call_paths import EXPRESSION, all_names, called, is_call_path
from fxcompress.pattern.explain import explain
from fxcompress.pattern.matcher import find

Scope = str | Pattern

OPTIONAL = "optional:"


def left_alone(graph: fx.Graph, ignored: Iterable[Scope], scopes: Iterable[Scope] | None = None) -> set[fx.Node]:
    """The nodes that `ignored` names, and those that `scopes`, where it is not None, does not name."""
    found = select(graph, ignored)
    return found if scopes is None else found | (set(graph.nodes) - select(graph, scopes))


def select(graph: fx.Graph, scopes: Iterable[Scope]) -> set[fx.Node]:
    r"""The nodes that any of `scopes` names.

    A scope is a module path (``"layer1.0"``: that module and all below it), a glob over module paths
    (``"layer*.conv1"``), a node's name (``"layer1_0_add"``), an operation (``"op:conv2d"``), a pattern (all calls
    that its matches cover), or an operation as NNCF named it: ``"ResNet/ReLU[relu]/relu__0"``, or all whose such names an
    expression is found in, ``"{re}Sequential\\[layer1\\]/.*conv2d"`` (`fxcompress.ir.calls`). One that begins with
    ``optional:`` may match nothing.

    Raises:
        ScopeError: a scope matches nothing; the nearest names are suggested, or what stopped the pattern.
        InputError: `scopes` is a scope itself, or something in it is not.
    """
    if isinstance(scopes, Scope):
        raise InputError(f"scopes come in a list: write [{scopes!r}]")
    try:
        scopes = list(scopes)
    except TypeError:
        raise InputError(f"scopes come in a list, as ['layer1.0', 'op:conv2d'], not a {type(scopes).__name__}") from None
    return {node for scope in scopes for node in _named(graph, scope)}


def _named(graph: fx.Graph, scope: Scope) -> set[fx.Node]:
    if isinstance(scope, Pattern):
        matched = {node for match in find(scope, graph) for node in match.nodes}
        if not matched:
            raise ScopeError(f"the pattern {scope} matches nothing in the model: {explain(scope, graph)}")
        return matched
    if not isinstance(scope, str):
        raise InputError(
            "a scope is a text or a pattern: a module's path as 'layer1.0', an operation as 'op:conv2d', "
            f"not {scope if isinstance(scope, type) else type(scope)}"
        )
    if scope.startswith(OPTIONAL):
        try:
            return _named(graph, scope.removeprefix(OPTIONAL))
        except ScopeError:
            return set()
    if is_call_path(scope):
        found = called(graph, scope)
        if found is not None:
            return found
    matched = {node for node in graph.nodes if scope in _names(node) or _globbed(node, scope)}
    if not matched:
        names = all_names(graph) if is_call_path(scope) else (name for node in graph.nodes for name in _names(node))
        hint = did_you_mean(scope.replace(EXPRESSION, ""), set(names))
        raise ScopeError(f"scope {scope!r} matches nothing in the model{hint}; compile(model, [], ...).text() has all names")
    return matched


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
