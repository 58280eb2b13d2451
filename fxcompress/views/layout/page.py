"""A layered drawing in columns: places for boxes, routes for wires, frames for groups. Knows nothing of what is drawn.

Rows run from top to bottom and break into columns that are read from left to right, so that a long graph fits a page.
A wire that crosses a break goes through the gutter; one that goes further is cut, and its reader gets a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fxcompress.views.layout.columns import Way, fill_columns, ways
from fxcompress.views.layout.layers import Ranks, break_columns, fit, rank
from fxcompress.views.layout.placing import PlacedColumn
from fxcompress.views.layout.shapes import Item, Layout, Net, Route

PAGE = (1600.0, 1060.0)
GUTTER = 36.0
LANE = 9.0
TRIED = 4
LARGE = 400
"""Boxes from which on only the most promising columns are tried, of `TRIED` otherwise."""


def lay_out(items: Sequence[Item], nets: Sequence[Net], page: tuple[float, float] = PAGE) -> Layout:
    """Place `items` and route `nets`, which must be acyclic; columns are such that the whole is large on a `page`.

    Raises:
        networkx.NetworkXUnfeasible: there is a cycle.
    """
    ranks = rank([item.name for item in items], [(net.source, net.targets) for net in nets])
    count = max(ranks.row.values(), default=-1) + 1
    rows = [[item for item in items if ranks.row[item.name] == row] for row in range(count)]
    tried = []
    for starts, price in _candidates(rows, nets, ranks, page)[: TRIED if len(items) < LARGE else 1]:
        layout = _lay_out(items, nets, ranks, [*starts, count])
        tried.append((fit(layout.width, layout.height, page) - price, layout))
    return max(tried, key=lambda scored: scored[0])[1]


def _lay_out(items: Sequence[Item], nets: Sequence[Net], ranks: Ranks, bounds: list[int]) -> Layout:
    result = Layout(rows=ranks.row)
    result.columns = {name: sum(row >= start for start in bounds[:-1]) - 1 for name, row in ranks.row.items()}
    led = ways(nets, ranks.row, result.columns)
    columns = fill_columns({item.name: item for item in items}, nets, led, ranks.row, bounds)
    _place([PlacedColumn(column, ranks) for column in columns], led, result)
    return result


def _candidates(
    rows: list[list[Item]], nets: Sequence[Net], ranks: Ranks, page: tuple[float, float]
) -> list[tuple[list[int], float]]:
    """Ways to break `rows` into columns, from rough heights and widths; the most promising first."""
    if not rows:
        return [([0], 0.0)]
    heights = [max(i.height for i in r) + max(i.above for i in r) + max(i.below for i in r) + 16 for r in rows]
    spans = [(ranks.row[net.source], max((ranks.row[t] for t in net.targets), default=0)) for net in nets]
    passing = [sum(first < i <= last for first, last in spans) for i in range(len(rows))]
    groups = [{group for item in row for group in item.groups} for row in rows]
    for i, (before, after) in enumerate(pairwise(groups), 1):
        heights[i] += 25 * len(after - before)
    split = [0, *(len(before & after) for before, after in pairwise(groups))]
    costs = [max(0, p - 1) + s for p, s in zip(passing, split)]
    widths = [sum(i.width + 30 for i in row) + 16 * p for row, p in zip(rows, [*passing[1:], 0])]
    return break_columns(heights, costs, lambda first, end: max(widths[first:end]) + GUTTER, page)


def _place(columns: list[PlacedColumn], led: list[Way], result: Layout) -> None:
    """Columns side by side, their tops below the lanes of the wires that come in from the left."""
    lanes = [sum(1 for way in led if way.next and way.column == i) for i in range(len(columns))]
    top, left = LANE * (max(lanes) + 1) if any(lanes) else 0.0, 0.0
    seen: set[str] = set()
    for column, count in zip(columns, lanes):
        column.shift(left, top)
        result.width = left + column.width
        result.height = max(result.height, top + column.height + (LANE * (count + 1) if count else 0.0))
        left += column.width + GUTTER + LANE * count
        result.boxes.update(column.boxes())
        result.references.update(column.references())
        result.frames += column.framed(seen)
    taken = [0] * len(columns)
    for net, way in enumerate(led):
        result.routes += [Route(net, use, columns[way.column].stretches(net, use)) for use in way.near]
        for use in way.cut:
            reader = next(column for column in columns if (net, use) in column.column.chains)
            result.routes.append(Route(net, use, reader.stretches(net, use)))
        if way.next:
            taken[way.column] += 1
            pair = columns[way.column], columns[way.column + 1]
            result.routes += _through_gutter(*pair, net, way, taken[way.column])


def _through_gutter(home: PlacedColumn, following: PlacedColumn, net: int, way: Way, number: int) -> list[Route]:
    """Routes that leave `home` at its bottom, rise in the gutter in lane `number`, and enter `following` from above."""
    out = home.stretches(net, None)
    bottom = home.dy + home.height + LANE * number
    x = home.dx + home.width + GUTTER / 2 + LANE * (number - 0.5)
    top = following.dy - LANE * number
    routes = []
    for use in way.next:
        into = following.stretches(net, use)
        detour = ((out[-1].x, bottom), (x, bottom), (x, top), (into[0].x, top))
        routes.append(Route(net, use, (*out, *into), len(out) - 1, detour))
    return routes
