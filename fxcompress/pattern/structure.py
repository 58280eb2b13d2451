"""What a pattern is made of: its names, its depth, its literals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxcompress.pattern.language import Call, Items, Literal, Pattern


def names(pattern: Pattern) -> tuple[str, ...]:
    """The names that `pattern` binds, each once, in order of first appearance."""
    found = (p.name for p in _walk(pattern, set()) if p.name is not None)
    return tuple(dict.fromkeys(found))


def literal(pattern: Pattern) -> Any:
    """The value that `pattern` stands for, where that is a plain literal or list of literals; else None."""
    if pattern.name is not None or pattern.tests:
        return None
    if isinstance(pattern, Literal):
        return pattern.value
    values = [literal(child) for child in pattern.children] if isinstance(pattern, Items) else [None]
    return None if None in values else values


def depth(pattern: Pattern) -> int:
    """The number of calls on the longest way from the root of `pattern` to a variable or literal."""
    return _depth(pattern, {})


def _walk(pattern: Pattern, seen: set[int]) -> Iterator[Pattern]:
    if id(pattern) not in seen:
        seen.add(id(pattern))
        yield pattern
        for child in pattern.children:
            yield from _walk(child, seen)


def _depth(pattern: Pattern, known: dict[int, int]) -> int:
    if id(pattern) not in known:
        inner = max((_depth(child, known) for child in pattern.children), default=0)
        known[id(pattern)] = inner + isinstance(pattern, Call)
    return known[id(pattern)]
