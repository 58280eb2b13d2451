"""Where everything in a column stands: coordinates, ports on boxes, frames around groups."""

from __future__ import annotations

from collections.abc import Iterator

from fxcompress.views.layout.columns import Column
from fxcompress.views.layout.coordinates import assign
from fxcompress.views.layout.layers import Key, Ranks, order
from fxcompress.views.layout.shapes import Frame, Rect, Stretch

BOX_GAP = 24.0
WIRE_GAP = 14.0
FRAME = 9.0
LABEL = 16.0
REFERENCE_HEIGHT = 15.0
ROW_GAP = 12.0


class PlacedColumn:
    """`column` in order and with coordinates; its left top corner is at (0, 0) until `shift` says otherwise."""

    def __init__(self, column: Column, ranks: Ranks):
        self.column = column
        column.rows = order([sorted(r, key=lambda k: isinstance(k, tuple)) for r in column.rows], column.above, column.below)
        bends: set[Key] = {k for k in column.groups if isinstance(k, tuple) and k[0] == "bend" and k[2] >= column.first}
        priority = {k: (ranks.depth[k], ranks.height[k]) if isinstance(k, str) else (-1, -1) for k in column.groups}
        self.x = assign(column.rows, column.above, column.below, bends, priority, self._gap)
        self.index = {key: i for i, row in enumerate(column.rows) for key in row}
        self.spans = self._spans()
        self.height = self._stack()
        frames = list(self._frames())
        keys = [(self.x[k] - self._width(k) / 2, self.x[k] + self._width(k) / 2) for k in column.groups]
        left = min([low for low, _ in keys] + [frame.x for _, frame, _ in frames], default=0.0)
        self.x = {key: x - left for key, x in self.x.items()}
        self.width = max([high for _, high in keys] + [frame.right for _, frame, _ in frames], default=0.0) - left
        self.frames = [(group, rect.moved(-left, 0.0), depth) for group, rect, depth in frames]
        self.entries, self.exits = self._entries(), self._exits()
        self.dx = self.dy = 0.0

    def shift(self, dx: float, dy: float) -> None:
        """Put the left top corner at (`dx`, `dy`)."""
        self.dx, self.dy = dx, dy

    # -- results, shifted ----------------------------------------------------------------------------------------------

    def boxes(self) -> Iterator[tuple[str, Rect]]:
        for key in self.column.groups:
            if isinstance(key, str):
                yield key, self._rect(key).moved(self.dx, self.dy)

    def references(self) -> Iterator[tuple[tuple[int, int], Rect]]:
        for key in self.column.groups:
            if isinstance(key, tuple) and key[0] == "reference":
                yield key[1:], self._rect(key).moved(self.dx, self.dy)

    def framed(self, seen: set[str]) -> Iterator[Frame]:
        """The frames, outer ones first; `seen` collects the groups that have one."""
        for group, rect, depth in self.frames:
            yield Frame(group, rect.moved(self.dx, self.dy), depth, group in seen)
            seen.add(group)

    def stretches(self, net: int, use: int | None) -> tuple[Stretch, ...]:
        """The vertical pieces of a chain: free of boxes from the room below one row to the room above the next."""
        found = []
        chain = self.column.chains[net, use]
        for place, key in enumerate(chain):
            row = self.index[key]
            x, top, bottom = self.x[key], self.zones[row][0], self.zones[row][1]
            if not (isinstance(key, tuple) and key[0] == "bend"):
                rect = self._rect(key)
                if place:
                    x, bottom = self.entries[net, use], rect.y
                else:
                    x, top = self.exits[net] if isinstance(key, str) else x, rect.bottom
            found.append(Stretch(x, top, bottom).moved(self.dx, self.dy))
        return tuple(found)

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def _width(self, key: Key) -> float:
        if isinstance(key, str):
            return self.column.items[key].width
        return self.column.nets[key[1]].reference if key[0] == "reference" else 0.0

    def _height(self, key: Key) -> float:
        if isinstance(key, str):
            return self.column.items[key].height
        return REFERENCE_HEIGHT if key[0] == "reference" else 0.0

    def _gap(self, left: Key, right: Key) -> float:
        frames = len(set(self.column.groups[left]) ^ set(self.column.groups[right]))
        gap = BOX_GAP if self._width(left) and self._width(right) else WIRE_GAP
        return (self._width(left) + self._width(right)) / 2 + gap + FRAME * frames

    def _rect(self, key: Key) -> Rect:
        """The place of a key that is no bend, in the middle of its row."""
        row, height = self.index[key], self._height(key)
        top = self.tops[row] + (self.heights[row] - height) / 2
        return Rect(self.x[key] - self._width(key) / 2, top, self._width(key), height)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _spans(self) -> dict[str, tuple[int, int]]:
        """The first and the last row that a box of each group stands in."""
        spans: dict[str, tuple[int, int]] = {}
        for key, groups in self.column.groups.items():
            if isinstance(key, str):
                for group in groups:
                    first, last = spans.get(group, (self.index[key], self.index[key]))
                    spans[group] = min(first, self.index[key]), max(last, self.index[key])
        return spans

    def _nested(self, row: int, end: int, outermost: str | None = None) -> int:
        """How many groups, one in another, open (`end` 0) or close (`end` 1) at `row`, from `outermost` inwards."""
        most = 0
        for key in self.column.rows[row]:
            groups = self.column.groups[key] if isinstance(key, str) else ()
            groups = groups[groups.index(outermost) :] if outermost in groups else () if outermost else groups
            most = max(most, sum(self.spans[group][end] == row for group in groups))
        return most

    def _stack(self) -> float:
        """The y of each row, and of its zone (the row with its rooms); gives the height of the column."""
        rows = self.column.rows
        self.tops: list[float] = []
        self.heights = [max(map(self._height, row), default=0.0) for row in rows]
        self.zones: list[tuple[float, float]] = []
        y = 0.0
        for i, row in enumerate(rows):
            boxes = [self.column.items[key] for key in row if isinstance(key, str)]
            y += self._row_gap(i) if i else 0.0
            top = y + max((box.above for box in boxes), default=0.0)
            self.tops.append(top)
            bottom = top + self.heights[i] + max((box.below for box in boxes), default=0.0)
            self.zones.append((y, bottom))
            y = bottom
        return y

    def _row_gap(self, i: int) -> float:
        """The space between the zones of rows i - 1 and i: for frames, and for curves that are not too flat."""
        closing, opening = self._nested(i - 1, 1), self._nested(i, 0)
        frames = FRAME * closing + LABEL * opening + (5 if closing and opening else 0)
        if not self.column.rows[i - 1] or not self.column.rows[i]:
            return frames
        flat = max((abs(self.x[a] - self.x[b]) for b in self.column.rows[i] for a in self.column.above.get(b, ())), default=0)
        return max(frames, ROW_GAP + min(flat / 6, 30.0))

    # -- frames --------------------------------------------------------------------------------------------------------

    def _frames(self) -> Iterator[tuple[str, Rect, int]]:
        """The frame of each group, outer ones first, if it holds no stranger and cuts no other frame."""
        drawn: dict[str, Rect] = {}
        depth = {g: i for groups in self.column.groups.values() for i, g in enumerate(groups)}
        for group in sorted(self.spans, key=lambda g: (depth[g], self.spans[g])):
            rect = self._frame(group)
            members = self._members(group)
            strangers = [key for key in self.column.groups if self._width(key) and key not in members]
            outer = next((set(g[: g.index(group)]) for g in self.column.groups.values() if group in g), set())
            clear = not any(rect.overlaps(self._rect(k)) for k in strangers)
            if clear and all(r.holds(rect) if g in outer else not r.overlaps(rect) for g, r in drawn.items()):
                drawn[group] = rect
                yield group, rect, depth[group]

    def _members(self, group: str) -> set[Key]:
        first, last = self.spans[group]
        groups = self.column.groups
        return {key for key in groups if group in groups[key] and first - 1 <= self.index[key] <= last}

    def _frame(self, group: str) -> Rect:
        first, last = self.spans[group]
        members = [key for key in self._members(group) if self.index[key] >= first]
        deep = max(len(self.column.groups[k]) - self.column.groups[k].index(group) for k in members)
        left = min(self.x[k] - self._width(k) / 2 for k in members) - FRAME * deep
        right = max(self.x[k] + self._width(k) / 2 for k in members) + FRAME * deep
        top = self.zones[first][0] - LABEL * self._nested(first, 0, group)
        bottom = self.zones[last][1] + FRAME * self._nested(last, 1, group)
        return Rect(left, top, right - left, bottom - top)

    # -- ports ---------------------------------------------------------------------------------------------------------

    def _entries(self) -> dict[tuple[int, int | None], float]:
        """Where each use enters its reader: below where it comes from, as far as the box and its neighbours allow."""
        readers: dict[Key, list[tuple[int, int | None]]] = {}
        for (net, use), chain in self.column.chains.items():
            if use is not None:
                readers.setdefault(chain[-1], []).append((net, use))
        found: dict[tuple[int, int | None], float] = {}
        for reader, entering in readers.items():
            entering.sort(key=lambda e: self.x[self.column.chains[e][-2]])
            wanted = [self.x[self.column.chains[e][-2]] for e in entering]
            wanted = wanted if len(wanted) > 1 else [self.x[reader]]
            widths = [max(WIRE_GAP, self._entry_width(e)) for e in entering]
            places = _spread(wanted, widths, self.x[reader], self._width(reader))
            found |= dict(zip(entering, places))
        return found

    def _entry_width(self, entry: tuple[int, int | None]) -> float:
        net, use = entry
        widths = self.column.nets[net].entries
        return widths[use] if widths and use is not None else 0.0

    def _exits(self) -> dict[int, float]:
        """Where each net leaves its box: from the middle, side by side where a box gives several values."""
        givers: dict[Key, dict[int, float]] = {}
        for (net, _), chain in self.column.chains.items():
            if isinstance(chain[0], str):
                givers.setdefault(chain[0], {}).setdefault(net, self.x[chain[1]])
        found: dict[int, float] = {}
        for giver, nets in givers.items():
            leaving = sorted(nets, key=lambda net: nets[net])
            step = min(26.0, self._width(giver) / (len(leaving) + 1))
            found |= {net: self.x[giver] + step * (i - (len(leaving) - 1) / 2) for i, net in enumerate(leaving)}
        return found


def _spread(wanted: list[float], widths: list[float], middle: float, width: float) -> list[float]:
    """Places near those `wanted` (ascending) that keep `widths` apart, on a side `width` wide around `middle`."""
    low, high = middle - width / 2 + 4, middle + width / 2 - 4
    shrink = min(1.0, (high - low) / max(sum(widths), 1e-9))
    widths = [w * shrink for w in widths]
    places: list[float] = []
    edge = low
    for want, size in zip(wanted, widths):
        places.append(max(min(want, high - size / 2), edge + size / 2))
        edge = places[-1] + size / 2
    edge = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], edge - widths[i] / 2)
        edge = places[i] - widths[i] / 2
    return places
