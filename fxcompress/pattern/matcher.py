"""Finding patterns in a graph: roots from the graph's own index, then a search from each within a step budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxcompress.pattern.language import Pattern
from fxcompress.pattern.search import Search, compiled

BUDGET = 10_000
"""Steps that a search from one root may take, unless told otherwise."""


@dataclass(frozen=True)
class Match:
    """One place where a pattern holds.

    `root` is the call that the whole pattern matched; `nodes` are all matched calls, the root first; `bindings` the
    value of each name in the pattern: a node or a literal, None where the matched alternative does not mention it.
    ``match["conv"]`` is short for ``match.bindings["conv"]``.
    """

    pattern: Pattern
    root: fx.Node
    nodes: tuple[fx.Node, ...]
    bindings: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.bindings[name]


def find(pattern: Pattern, graph: fx.Graph, *, budget: int = BUDGET) -> list[Match]:
    """The matches of `pattern` in `graph`, at most one a root, in the order of the graph. Matches may overlap.

    Raises:
        PatternError: the whole pattern may match something that is not a call.
        MatchBudgetError: a search took more than `budget` steps.
    """
    found = (match_at(pattern, node, budget=budget) for node in candidates(pattern, graph))
    return [match for match in found if match is not None]


def match_at(pattern: Pattern, node: fx.Node, *, budget: int = BUDGET) -> Match | None:
    """The match of `pattern` with `node` as its root, or None. Raises as `find` does."""
    program = compiled(pattern)
    if node.target not in program.heads:
        return None
    search = Search(pattern, node, budget)
    if not search.run():
        return None
    bindings = dict.fromkeys(program.names)
    bindings.update(search.bindings)
    return Match(pattern, node, tuple(dict.fromkeys(search.nodes)), bindings)


def candidates(pattern: Pattern, graph: fx.Graph) -> list[fx.Node]:
    """The calls in `graph` that the root of `pattern` might be, in the order of the graph."""
    found: list[fx.Node] = []
    for target in root_targets(pattern):
        found += graph.find_nodes(op="call_function", target=target, sort=False)
    return sorted(found)


def root_targets(pattern: Pattern) -> frozenset[Callable]:
    """The call targets that the root of `pattern` can have. Raises PatternError where it may be anything."""
    return compiled(pattern).heads
