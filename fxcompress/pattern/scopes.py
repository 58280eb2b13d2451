"""Places in a model: module paths, globs, node names, operations and patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import fx

from fxcompress.errors import InputError, ScopeError, did_you_mean, shown
from fxcompress.ir.place import place_of
from fxcompress.pattern import Pattern
from fxcompress.pattern.call_paths import EXPRESSION, all_names, called, is_call_path, is_outside
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
    ``optional:`` may match nothing. In a model that is compiled in parts it is a name in the model, ``"backbone.0"``, or in a
    part, and has to match in one of them, or to name a module that is in none.

    Raises:
        ScopeError: a scope matches nothing; the nearest names are suggested, or what stopped the pattern.
        InputError: `scopes` is a scope itself, or something in it is not.
    """
    if isinstance(scopes, Scope):
        raise InputError(f"scopes come in a list: write [{shown(scopes)}]")
    try:
        scopes = list(scopes)
    except TypeError:
        raise InputError(f"scopes come in a list, as ['layer1.0', 'op:conv2d'], not a {type(scopes).__name__}") from None
    return {node for scope in scopes for node in _named(graph, scope)}


def _named(graph: fx.Graph, scope: Scope) -> set[fx.Node]:
    """The nodes that `scope` names; none where it names something in another part of the model that the graph is a part of."""
    optional = isinstance(scope, str) and scope.startswith(OPTIONAL)
    wanted = scope.removeprefix(OPTIONAL) if optional else scope  # type: ignore[union-attr]
    found = _found(graph, wanted)
    if found is None and not optional and not _is_elsewhere(graph, wanted):
        raise ScopeError(_unknown(graph, wanted))
    return found or set()


def _found(graph: fx.Graph, scope: Scope) -> set[fx.Node] | None:
    """The nodes of `graph` that `scope` names; None where nothing in it has, or had, that name."""
    if isinstance(scope, Pattern):
        return {node for match in find(scope, graph) for node in match.nodes} or None
    if not isinstance(scope, str):
        raise InputError(
            "a scope is a text or a pattern: a module's path as 'layer1.0', an operation as 'op:conv2d', "
            f"not {scope if isinstance(scope, type) else type(scope)}"
        )
    if is_call_path(scope):
        found = called(graph, scope)
        if found is not None:
            return found
    return {node for node in graph.nodes if scope in _names(node) or _globbed(_names(node), scope)} or None


def _is_elsewhere(graph: fx.Graph, scope: Scope) -> bool:
    """Whether `scope` names something in another part, or a module that is in none."""
    place = place_of(graph)
    if place is None:
        return False
    if any(_found(part, scope) is not None for part in place.parts):
        return True
    if isinstance(scope, Pattern):
        return False
    return scope in place.outside or _globbed(place.outside, scope) or (is_call_path(scope) and is_outside(place, scope))


def _unknown(graph: fx.Graph, scope: Scope) -> str:
    if isinstance(scope, Pattern):
        return f"the pattern {scope} matches nothing in the model: {explain(scope, graph)}"
    place = place_of(graph)
    nodes = [node for part in (place.parts if place else (graph,)) for node in part.nodes]
    names = all_names(nodes) if is_call_path(scope) else (name for node in nodes for name in _names(node))
    hint = did_you_mean(scope.replace(EXPRESSION, ""), set(names))
    return f"scope {scope!r} matches nothing in the model{hint}; compile(model, [], ...).text() has all names"


def _names(node: fx.Node) -> list[str]:
    """All scopes that name `node` exactly: itself, its operation, and each module around it, in its part and in its model."""
    inside, place = node.meta.get("scope", ""), place_of(node.graph)
    paths = [inside] if place is None else [inside, place.scope(inside)]
    around = [".".join(path[:end]) for path in (one.split(".") for one in paths) for end in range(1, len(path) + 1)]
    return [node.name, operation(node), *filter(None, around)]


def operation(node: fx.Node) -> str:
    """``"op:conv2d"`` for a call of ``aten.conv2d.default``; ``"op:get_attr"`` and the like for other nodes."""
    packet = getattr(node.target, "overloadpacket", None)
    return f"op:{packet.__name__ if packet else node.op}"


def _globbed(names: Iterable[str], scope: str) -> bool:
    return any(c in scope for c in "*?[") and any(fnmatch.fnmatchcase(name, scope) for name in names)
