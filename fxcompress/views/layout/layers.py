"""The first steps of a layered drawing: which row a box stands in, where rows break into columns, and their order.

Source: Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures", 1981. A wire that
passes several rows stands in each of them as a bend, shared by all its readers, so one value is one line that forks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx

Key = str | tuple[Any, ...]
Rows = list[list[Key]]
Links = Mapping[Key, list[Key]]

SWEEPS = 12
MOST_COLUMNS = 12
BREAK_PRICE = 0.06


@dataclass(frozen=True)
class Ranks:
    """For each box: its row, and how many steps the longest paths to it and from it have."""

    row: dict[str, int]
    depth: dict[str, int]
    height: dict[str, int]


def rank(boxes: Sequence[str], nets: Sequence[tuple[str, Sequence[str]]]) -> Ranks:
    """Rows by longest path; a box that reads no more values than it gives stands right above its first reader."""
    graph = nx.DiGraph()
    graph.add_nodes_from(boxes)
    graph.add_edges_from((source, target) for source, targets in nets for target in targets)
    depth = {name: i for i, generation in enumerate(nx.topological_generations(graph)) for name in generation}
    upward = nx.topological_generations(graph.reverse(copy=False))
    height = {name: i for i, generation in enumerate(upward) for name in generation}
    given = dict.fromkeys(boxes, 0)
    read = dict.fromkeys(boxes, 0)
    for source, targets in nets:
        given[source] += 1
        for target in set(targets):
            read[target] += 1
    row = dict(depth)
    for name in reversed(list(nx.topological_sort(graph))):
        if given[name] and read[name] <= given[name]:
            row[name] = min(row[reader] for reader in graph.successors(name)) - 1
    return Ranks(row, depth, height)


def order(rows: Rows, above: Links, below: Links) -> Rows:
    """`rows`, each put in an order in which few links cross: barycentre sweeps, the best arrangement seen kept."""
    best, fewest = rows, crossings(rows, below)
    current = [list(row) for row in rows]
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        positions: dict[Key, float] = {}
        for i in range(len(current)) if down else reversed(range(len(current))):
            current[i] = _by_barycentre(current[i], above if down else below, positions)
        count = crossings(current, below)
        if count < fewest:
            best, fewest = [list(row) for row in current], count
    return best


def _by_barycentre(row: list[Key], links: Links, positions: dict[Key, float]) -> list[Key]:
    """`row` by the mean position of each key's links; keys without links stay where they are."""
    wanted = {}
    for i, key in enumerate(row):
        linked = [positions[other] for other in links.get(key, ())]
        wanted[key] = sum(linked) / len(linked) if linked else i / max(len(row) - 1, 1)
    arranged = sorted(row, key=wanted.__getitem__)
    positions.update((key, i / max(len(row) - 1, 1)) for i, key in enumerate(arranged))
    return arranged


def crossings(rows: Rows, below: Links) -> int:
    """How many pairs of links cross."""
    total = 0
    for upper, lower in pairwise(rows):
        position = {key: i for i, key in enumerate(lower)}
        ends = [p for key in upper for p in sorted(position[k] for k in below.get(key, ()) if k in position)]
        total += _inversions(ends, len(lower))
    return total


def _inversions(values: list[int], bound: int) -> int:
    """Pairs out of order, counted with a Fenwick tree."""
    tree = [0] * (bound + 1)
    count = 0
    for seen, value in enumerate(values):
        at_most, i = 0, value + 1
        while i:
            at_most += tree[i]
            i &= i - 1
        count += seen - at_most
        i = value + 1
        while i <= bound:
            tree[i] += 1
            i += i & -i
    return count


def break_columns(
    heights: Sequence[float], costs: Sequence[float], width: Callable[[int, int], float], page: tuple[float, float]
) -> list[tuple[list[int], float]]:
    """Ways to break rows into columns such that the whole is large on a `page`; the best first.

    Each is the first rows of its columns, and its price: what to take off the scale for bad breaks and uneven columns.

    Args:
        heights: of each row, with the gap below it.
        costs: ``costs[i]`` is how bad a break right above row i is; 0 is a clean one, 1 a bad one.
        width: gives the width of rows ``[i, j)`` as a column.
        page: width and height of the page that the drawing should fit.
    """
    total = sum(heights)
    scored: dict[tuple[int, ...], tuple[float, float]] = {}
    for columns in range(1, MOST_COLUMNS + 1):
        starts = _breaks(heights, costs, max(total / columns * 1.1, max(heights, default=0)))
        ends = [*starts[1:], len(heights)]
        tall = [sum(heights[i:j]) for i, j in zip(starts, ends)]
        uneven = sum((1 - height / max(tall)) ** 2 for height in tall)
        price = BREAK_PRICE * (uneven + sum(0.1 + costs[i] for i in starts[1:]))
        scale = fit(sum(width(i, j) for i, j in zip(starts, ends)), max(tall), page)
        scored[tuple(starts)] = (scale - price, price)
    best = sorted(scored, key=lambda starts: (-scored[starts][0], len(starts)))
    return [(list(starts), scored[starts][1]) for starts in best]


def fit(width: float, height: float, page: tuple[float, float]) -> float:
    """The scale at which a drawing fits a page, at most 1."""
    return min(page[0] / max(width, 1.0), page[1] / max(height, 1.0), 1.0)


def _breaks(heights: Sequence[float], costs: Sequence[float], capacity: float) -> list[int]:
    """The cheapest breaks such that no column is taller than `capacity`; each column costs a little too."""
    least = [0.0] + [float("inf")] * len(heights)
    start = [0] * (len(heights) + 1)
    for end in range(1, len(heights) + 1):
        tall = 0.0
        for first in range(end - 1, -1, -1):
            tall += heights[first]
            if tall > capacity and first < end - 1:
                break
            cost = least[first] + (0.3 + costs[first] if first else 0.0) + 0.8 * (1 - tall / capacity) ** 2
            if cost < least[end]:
                least[end], start[end] = cost, first
    starts: list[int] = []
    end = len(heights)
    while end:
        starts.insert(0, start[end])
        end = start[end]
    return starts or [0]
