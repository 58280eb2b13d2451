"""What is reached from a place in a graph.

Values fork and join, and graphs are deep: a search that calls itself takes as long as there are paths, and ends where
Python's stack does. Every search of ours that goes from node to node goes through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def reached(starts: Iterable[_T], following: Callable[[_T], Iterable[_T]]) -> Iterator[_T]:
    """`starts`, and all that `following` leads to from them, each once: what follows one comes before the next."""
    seen: set[_T] = set()
    waiting = [*starts][::-1]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            yield one
            waiting += reversed([*following(one)])
