"""Horizontal coordinates of a layered drawing, with long wires and main lines straight.

Source: Brandes and Köpf, "Fast and simple horizontal coordinate assignment", Graph Drawing 2001. Two departures: among
its neighbours a key aligns with those of the highest priority (the longest path, so that a side branch does not bend
the main line), and each alignment is compacted by longest paths over its block graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import networkx as nx

from fxcompress.views.layout.layers import Key, Links, Rows

Gap = Callable[[Key, Key], float]


def assign(rows: Rows, above: Links, below: Links, bends: set[Key], priority: Mapping[Key, tuple[int, int]], gap: Gap):
    """The centre of each key, so that neighbours in a row are at least `gap(left, right)` apart.

    Args:
        rows: top to bottom, each from left to right.
        above, below: the links of each key to the rows next to its own.
        bends: the keys that are bends of a wire; a link between two of them is kept straight.
        priority: of a key as seen from below, and as seen from above.
        gap: the least distance between the centres of two neighbours.
    """
    conflicts = _conflicts(rows, above, bends)
    chosen = _main_links(above, below, bends, priority)
    layouts = []
    for upward in (False, True):
        vertical = rows[::-1] if upward else rows
        links = chosen[upward]
        for leftward in (False, True):
            arranged = [row[::-1] for row in vertical] if leftward else vertical
            separation = (lambda a, b: gap(b, a)) if leftward else gap
            placed = _compact(arranged, _align(arranged, links, conflicts), separation)
            layouts.append({key: -x for key, x in placed.items()} if leftward else placed)
    return _balance(layouts)


def _main_links(above: Links, below: Links, bends: set[Key], priority: Mapping[Key, tuple[int, int]]) -> tuple[Links, Links]:
    """The links that both ends hold to be a main one, as seen from below and as seen from above."""

    def foremost(key: Key, linked: list[Key], side: int) -> set[Key]:
        further = bends.intersection(linked) if key in bends else set()
        highest = max((priority[k][side] for k in linked), default=0)
        return further or {k for k in linked if priority[k][side] == highest}

    upper = {key: foremost(key, linked, 0) for key, linked in above.items()}
    lower = {key: foremost(key, linked, 1) for key, linked in below.items()}
    return (
        {key: [k for k in chosen if key in lower[k]] for key, chosen in upper.items()},
        {key: [k for k in chosen if key in upper[k]] for key, chosen in lower.items()},
    )


def _conflicts(rows: Rows, above: Links, bends: set[Key]) -> set[tuple[Key, Key]]:
    """Links (upper, lower) that cross the link between two bends, which goes first."""
    found = set()
    for upper, lower in pairwise(rows):
        position = {key: i for i, key in enumerate(upper)}
        links = [(position[u], i, u, v) for i, v in enumerate(lower) for u in above.get(v, ()) if u in position]
        straight = [(p, i) for p, i, u, v in links if u in bends and v in bends]
        for p, i, u, v in links:
            if not (u in bends and v in bends) and any((p - q) * (i - j) < 0 for q, j in straight):
                found.add((u, v))
    return found


def _align(rows: Rows, links: Links, conflicts: set[tuple[Key, Key]]) -> dict[Key, Key]:
    """The root of the vertical block that each key belongs to."""
    root: dict[Key, Key] = {key: key for row in rows for key in row}
    for before, row in pairwise(rows):
        position = {key: i for i, key in enumerate(before)}
        last = -1
        for key in row:
            linked = sorted((k for k in links.get(key, ()) if k in position), key=position.__getitem__)
            middle = (len(linked) - 1) / 2
            for i in sorted({int(middle), int(middle + 0.5)}) if linked else ():
                other = linked[i]
                crossed = (other, key) in conflicts or (key, other) in conflicts
                if root[key] == key and not crossed and position[other] > last:
                    root[key] = root[other]
                    last = position[other]
    return root


def _compact(rows: Rows, root: dict[Key, Key], gap: Gap) -> dict[Key, float]:
    """Blocks pushed as far left as the gaps allow, then each drawn right towards its right neighbours."""
    blocks = nx.DiGraph()
    blocks.add_nodes_from(root.values())
    for row in rows:
        for left, right in pairwise(row):
            a, b = root[left], root[right]
            least = max(gap(left, right), blocks.edges[a, b]["gap"] if blocks.has_edge(a, b) else 0.0)
            blocks.add_edge(a, b, gap=least)
    placed: dict[Key, float] = {}
    sequence = list(nx.topological_sort(blocks))
    for block in sequence:
        placed[block] = max((placed[p] + d["gap"] for p, _, d in blocks.in_edges(block, data=True)), default=0.0)
    for block in reversed(sequence):
        if blocks.out_degree(block):
            placed[block] = min(placed[s] - d["gap"] for _, s, d in blocks.out_edges(block, data=True))
    return {key: placed[block] for key, block in root.items()}


def _balance(layouts: list[dict[Key, float]]) -> dict[Key, float]:
    """The mean of the two middle coordinates, after all four layouts are moved to where the narrowest one is."""
    if not layouts[0]:
        return {}
    ends = [(min(layout.values()), max(layout.values())) for layout in layouts]
    low, high = min(ends, key=lambda end: end[1] - end[0])
    shifts = [high - right if i % 2 else low - left for i, (left, right) in enumerate(ends)]
    return {key: sum(sorted(layout[key] + shift for layout, shift in zip(layouts, shifts))[1:3]) / 2 for key in layouts[0]}
