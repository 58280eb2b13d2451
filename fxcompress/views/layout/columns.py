"""What stands in each column of a layered drawing: boxes, bends of wires that pass, references to wires that were cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fxcompress.views.layout.layers import Key, Rows
from fxcompress.views.layout.shapes import Item, Net

FAR = 14
"""Rows that a wire may span across a break before it is cut."""


@dataclass
class Way:
    """How a net from `column` reaches its uses (by number): in it, through the gutter, or by a reference."""

    column: int
    near: list[int] = field(default_factory=list)
    next: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


class Column:
    """Rows ``[first, end)``, with a row of entries above and one of exits below where wires cross the breaks.

    Keys: a box by its name, ``("bend", net, row)`` where a net passes a row, ``("reference", net, use)``. A chain is the
    keys along one use of a net, from the source (or the entry) to the reader; that of ``(net, None)`` leads to the exit.
    """

    def __init__(self, items: Mapping[str, Item], nets: Sequence[Net], row: Mapping[str, int], first: int, end: int):
        self.items, self.nets, self.row, self.first, self.end = items, nets, row, first, end
        self.rows: Rows = [[] for _ in range(first - 1, end + 1)]
        self.above: dict[Key, list[Key]] = {}
        self.below: dict[Key, list[Key]] = {}
        self.groups: dict[Key, tuple[str, ...]] = {}
        self.chains: dict[tuple[int, int | None], list[Key]] = {}
        for name, item in items.items():
            if first <= row[name] < end:
                self._put(name, row[name], item.groups)

    def add_net(self, net: int, uses: list[int], starts: bool, leaves: bool) -> None:
        """Lead `net` to its readers here, and on to the exits where it `leaves`; it `starts` here or at an entry."""
        source, targets = self.nets[net].source, self.nets[net].targets
        start = self.row[source] if starts else self.first - 1
        stop = self.end + 1 if leaves else max((self.row[targets[use]] for use in uses), default=start + 1)
        trunk: list[Key] = [source if starts else ("bend", net, start)]
        trunk += [("bend", net, row) for row in range(start + 1, stop)]
        groups = _shared([self.items[targets[use]].groups for use in uses])
        for row, key in enumerate(trunk, start):
            if not isinstance(key, str):
                self._put(key, row, groups)
        for key, following in pairwise(trunk):
            self._link(key, following)
        for use in uses:
            chain = trunk[: self.row[targets[use]] - start]
            self._link(chain[-1], targets[use])
            self.chains[net, use] = [*chain, targets[use]]
        if leaves:
            self.chains[net, None] = trunk

    def add_reference(self, net: int, use: int) -> None:
        """Let a mention of `net` stand right above the reader."""
        target = self.nets[net].targets[use]
        key = ("reference", net, use)
        self._put(key, self.row[target] - 1, self.items[target].groups)
        self._link(key, target)
        self.chains[net, use] = [key, target]

    def _put(self, key: Key, row: int, groups: tuple[str, ...]) -> None:
        self.rows[row - self.first + 1].append(key)
        self.groups[key] = groups

    def _link(self, upper: Key, lower: Key) -> None:
        if lower not in self.below.setdefault(upper, []):
            self.below[upper].append(lower)
            self.above.setdefault(lower, []).append(upper)


def ways(nets: Sequence[Net], row: Mapping[str, int], column: Mapping[str, int]) -> list[Way]:
    """How each net is led. A net that crosses a break alone always goes through the gutter."""
    found = []
    for net in nets:
        way = Way(column[net.source])
        for use, target in enumerate(net.targets):
            if column[target] == way.column:
                way.near.append(use)
            elif column[target] == way.column + 1 and row[target] - row[net.source] <= FAR:
                way.next.append(use)
            else:
                way.cut.append(use)
        found.append(way)
    return found


def fill_columns(
    items: Mapping[str, Item], nets: Sequence[Net], led: Sequence[Way], row: Mapping[str, int], bounds: Sequence[int]
) -> list[Column]:
    """A column for each pair of `bounds`, with everything in it, not yet in order."""
    columns = [Column(items, nets, row, first, end) for first, end in pairwise(bounds)]
    for number, (net, way) in enumerate(zip(nets, led)):
        if way.near or way.next:
            columns[way.column].add_net(number, way.near, starts=True, leaves=bool(way.next))
        if way.next:
            columns[way.column + 1].add_net(number, way.next, starts=False, leaves=False)
        for use in way.cut:
            reader = row[net.targets[use]]
            next(c for c in columns if c.first <= reader < c.end).add_reference(number, use)
    return columns


def _shared(groups: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The outer groups that all have in common."""
    shared: list[str] = []
    for level in zip(*groups):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)
