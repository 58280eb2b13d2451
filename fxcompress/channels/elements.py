"""Sets of channels that stand or fall together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Ids = list[int]
"""One identifier for each index of an axis. Indices with the same identifier, or joined ones, are removed together."""


class Elements:
    """Disjoint sets of identifiers: a union-find forest with path halving (Tarjan and van Leeuwen 1984).

    A set is pinned, for a reason, when its channels must stay; it carries when a choice between axes fell on it.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._carrying: set[int] = set()

    def fresh(self, count: int) -> Ids:
        """`count` new identifiers, each a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return list(range(start, start + count))

    def find(self, one: int) -> int:
        """What stands for the set of `one`; it changes when sets are joined."""
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    def join(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Join the sets of each pair."""
        for a, b in zip(left, right, strict=True):
            a, b = self.find(a), self.find(b)
            if a != b:
                self._parent[b] = a
                if b in self._reasons:
                    self._reasons.setdefault(a, self._reasons[b])
                if b in self._carrying:
                    self._carrying.add(a)

    def pin(self, ids: Iterable[int], reason: str) -> None:
        """Keep these channels; the first reason given is the one remembered."""
        for one in ids:
            self._reasons.setdefault(self.find(one), reason)

    def reason(self, one: int) -> str | None:
        """Why `one` is pinned; None where it is free."""
        return self._reasons.get(self.find(one))

    def is_free(self, one: int) -> bool:
        return self.find(one) not in self._reasons

    def carry(self, ids: Iterable[int]) -> None:
        self._carrying.update(map(self.find, ids))

    def carries(self, ids: Iterable[int]) -> bool:
        return any(self.find(one) in self._carrying for one in ids)
