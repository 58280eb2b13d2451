"""Why a pattern does or does not match: the attempt that got furthest, and what stopped it, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxcompress.errors import describe
from fxcompress.ir.signature import arguments, same_value
from fxcompress.pattern.language import Alternatives, Call, Items, Literal, Pattern, Variable
from fxcompress.pattern.matcher import BUDGET, candidates, match_at, root_targets
from fxcompress.pattern.opnames import target_name
from fxcompress.pattern.search import Search


def explain(pattern: Pattern, graph: fx.Graph, *, budget: int = BUDGET) -> str:
    """How `pattern` fares in `graph`: where it matches, and how far the best failed attempt got and what stopped it.

    The best attempt is the one that matched the most calls; of equals, the first in the graph. Raises as `find` does.
    """
    roots = candidates(pattern, graph)
    if not roots:
        wanted = " or ".join(sorted(map(target_name, root_targets(pattern))))
        return f"no match: the graph has no call of {wanted}, the outermost part of {pattern}"
    matched = [node for node in roots if match_at(pattern, node, budget=budget)]
    failed = [node for node in roots if node not in matched]
    lines = []
    if matched:
        shown = ", ".join(node.name for node in matched[:5]) + (", ..." if len(matched) > 5 else "")
        lines.append(f"{_count(len(matched), 'match', 'matches')} at {shown}")
    if failed:
        best = max((_attempt(pattern, node, budget) for node in failed), key=lambda attempt: len(attempt.nodes))
        lines.append(
            f"{_count(len(failed), 'candidate does', 'candidates do')} not match; the closest is {describe(best.root)}"
        )
        lines.append(f"  matched: {', '.join(node.name for node in best.nodes) or 'nothing'}")
        lines.append(f"  failed:  {best.reason}")
    return "\n".join(lines)


@dataclass
class _Attempt:
    """Watches a search from `root` and keeps the failure that came after the most matched calls."""

    root: fx.Node
    nodes: tuple[fx.Node, ...] = ()
    reason: str = ""

    def failed(self, search: Search, pattern: Pattern, value: Any, argument: tuple[fx.Node, str] | None) -> None:
        if self._further(search):
            place = argument or _argument_holding(search.nodes, value)
            self.reason = _mismatch(search, pattern, value, place)

    def escaped(self, search: Search, node: fx.Node, user: fx.Node) -> None:
        if self._further(search):
            self.reason = (
                f"{describe(node)} escapes to {user.name}, which is outside the match; "
                "allow it with .shared() on that part of the pattern"
            )

    def _further(self, search: Search) -> bool:
        nodes = tuple(dict.fromkeys(search.nodes))
        further = not self.reason or len(nodes) > len(self.nodes)
        if further:
            self.nodes = nodes
        return further


def _attempt(pattern: Pattern, root: fx.Node, budget: int) -> _Attempt:
    attempt = _Attempt(root)
    Search(pattern, root, budget, trace=attempt).run()
    return attempt


def _mismatch(search: Search, pattern: Pattern, value: Any, place: tuple[fx.Node, str] | None) -> str:
    where = f"argument {place[1]!r} of {describe(place[0])}" if place else "the root"
    found = _shown(value)
    if place and place[1] == "operands":
        return f"the operands of {describe(place[0])} are {found}, in neither order what {pattern} needs"
    known = search.bindings.get(pattern.name) if pattern.name else None
    if known is not None and not same_value(known, value):
        return f"{where} is {found}, but {pattern.name!r} already stands for {_shown(known)}"
    if pattern.tests and _fits(pattern, value):
        tests = ", ".join(getattr(test, "__name__", repr(test)) for test in pattern.tests)
        return f"{where} is {found}, which does not pass the .where test {tests}"
    return f"{where} should be {_expected(pattern)}, but it is {found}"


def _fits(pattern: Pattern, value: Any) -> bool:
    """Whether `value` is of the kind that `pattern` asks for, its tests and inner parts aside."""
    if isinstance(pattern, Call):
        return isinstance(value, fx.Node) and value.target is pattern.target
    return isinstance(pattern, Variable) or (isinstance(pattern, Literal) and same_value(pattern.value, value))


def _expected(pattern: Pattern) -> str:
    match pattern:
        case Call():
            return f"a call of {target_name(pattern.target)}"
        case Alternatives():
            return " or ".join(dict.fromkeys(map(_expected, pattern.options)))
        case Items():
            return f"a list of {len(pattern.items)}"
        case Variable():
            return f"{pattern}, any value" if pattern.name else "any value"
    return repr(pattern)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and any(isinstance(item, fx.Node) for item in value):
        return " and ".join(map(_shown, value))
    if not isinstance(value, fx.Node):
        return repr(value)
    return f"{value.name} ({target_name(value.target) if value.op == 'call_function' else value.op})"


def _argument_holding(nodes: list[fx.Node], value: Any) -> tuple[fx.Node, str] | None:
    """The argument that holds `value`, of the call matched last."""
    for node in reversed(nodes):
        for name, held in arguments(node).items():
            if held is value or (isinstance(held, (list, tuple)) and any(item is value for item in held)):
                return node, name
    return None


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
