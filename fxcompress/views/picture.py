"""How boxes, wires and pills look."""

from __future__ import annotations

import string
from collections.abc import Sequence

from fxcompress.views.groups import visible_groups
from fxcompress.views.layout.page import lay_out
from fxcompress.views.layout.shapes import Frame, Item, Net, Rect, Route
from fxcompress.views.summary import Box, Line, Mark, Summary, Wire
from fxcompress.views.svg import Svg, cut, route_pieces, text_width

TEXT, SMALL, TINY = 11.5, 9.5, 9.0
LINE_HEIGHT, PAD_X, PAD_Y = 17.0, 9.0, 4.0
PILL_HEIGHT, PILL_PAD = 13.0, 5.0
ENTRY_ROOM, EXIT_ROOM = 24.0, 20.0
MARGIN, LEGEND_HEIGHT = 22.0, 20.0

INK, GREY, WIRE = "#1f2933", "#6b7683", "#76818d"
HEAVY, HEAVY_EDGE = "#e6eef7", "#86a2c1"
PLAIN, PLAIN_EDGE = "#ffffff", "#b3bcc6"
TERMINAL, REGION = "#46515e", "#46515e"
FRAMES = [("#f5f6f8", "#e0e4e9"), ("#ebeef2", "#d8dde4")]
NEUTRAL = ("#98a1ac", "#ffffff")
# Fill and text colours that stay apart for the colour-blind. Source: Okabe and Ito, "Color universal design", 2008.
PALETTE = [
    ("#d55e00", "#ffffff"),
    ("#0072b2", "#ffffff"),
    ("#009e73", "#ffffff"),
    ("#cc79a7", "#1f2933"),
    ("#e69f00", "#1f2933"),
    ("#56b4e9", "#1f2933"),
]


class Scheme:
    """The colours of passes: all that created something, or only the one to highlight."""

    def __init__(self, makers: Sequence[str], highlight: str | None):
        coloured = [maker for maker in makers if highlight in (None, maker)]
        self._colours = dict(zip(coloured, PALETTE))

    def shown(self, maker: str | None) -> bool:
        """Whether the pass has a colour of its own."""
        return maker in self._colours

    def colour(self, maker: str | None) -> tuple[str, str]:
        """Fill and text colour of what `maker` created; grey for passes that have none."""
        return self._colours.get(maker or "", NEUTRAL)


class Picture:
    """A laid-out summary; `width` and `height` are those of the drawing without margins."""

    def __init__(self, summary: Summary, scheme: Scheme):
        self.summary, self.scheme = summary, scheme
        self.groups = groups = visible_groups(summary)
        entering = {sink.box for wire in summary.wires for sink in wire.sinks if sink.marks}
        leaving = {wire.box for wire in summary.wires if wire.marks or wire.shape}
        items = [
            Item(
                box.name,
                self._box_width(box),
                2 * PAD_Y + LINE_HEIGHT * len(box.lines),
                ENTRY_ROOM if box.name in entering else 6.0,
                EXIT_ROOM if box.name in leaving else 4.0,
                groups[box.name],
            )
            for box in summary.boxes.values()
        ]
        nets = [
            Net(w.box, tuple(s.box for s in w.sinks), tuple(_pills_width(s.marks) + 8 * bool(s.marks) for s in w.sinks), 26.0)
            for w in summary.wires
        ]
        self.layout = lay_out(items, nets)
        self.width, self.height = self.layout.width, self.layout.height
        cut_nets = sorted({net for net, _ in self.layout.references})
        self.letters = {net: _letters(i) for i, net in enumerate(cut_nets)}

    def paint(self, svg: Svg, x: float, y: float) -> None:
        """Draw everything with the left top corner at (`x`, `y`)."""
        for frame in self.layout.frames:
            self._frame(svg, frame, x, y)
        drawn: set[str] = set()
        for route in self.layout.routes:
            *pieces, last = route_pieces(route, x, y)
            for piece in pieces:
                if piece not in drawn:
                    svg.path(piece, WIRE)
            svg.path(last, WIRE, arrow=True)
            drawn.update(pieces)
        for frame in self.layout.frames:
            self._frame_label(svg, frame, x, y)
        for name, place in self.layout.boxes.items():
            self._box(svg, self.summary.boxes[name], place.moved(x, y))
        for (net, _), place in self.layout.references.items():
            self._reference(svg, net, place.moved(x, y))
        self._marks(svg, x, y)

    # -- boxes ---------------------------------------------------------------------------------------------------------

    def _box_width(self, box: Box) -> float:
        lines = [self._line_width(line) for line in box.lines]
        label = caption(box, self.groups[box.name])
        lines[_caption_line(box)] += text_width(label, TINY) + 10 if label else 0.0
        entries = sum(max(_pills_width(s.marks) + 8, 16) for w in self.summary.wires for s in w.sinks if s.box == box.name)
        labels = [text_width(w.shape or "", SMALL) + _pills_width(w.marks) / 2 for w in self.summary.wires if w.box == box.name]
        return max(64.0, entries, 2 * max(labels, default=0.0) + 12, max(lines) + 2 * PAD_X)

    def _line_width(self, line: Line) -> float:
        words = text_width(line.operation, TEXT, bold=True) + (text_width(line.detail, TEXT) + 6 if line.detail else 0)
        return words + (_pills_width(line.marks) + 8 if line.marks else 0)

    def _box(self, svg: Svg, box: Box, place: Rect) -> None:
        svg.open(box.kind, box.nodes, "\n".join(f"{line.node}: {line.operation} {line.detail}" for line in box.lines))
        if box.kind != "operation":
            svg.rect(place, TERMINAL, radius=place.height / 2)
            x, y = place.x + place.width / 2, place.y + place.height / 2 + 4
            svg.text(x, y, box.lines[0].detail or box.lines[0].operation, TEXT, "#ffffff", bold=True, anchor="middle")
        else:
            heavy = any(line.heavy for line in box.lines)
            edge = HEAVY_EDGE if heavy else PLAIN_EDGE
            svg.rect(place, HEAVY if heavy else PLAIN, REGION if box.region else edge, 5, 1.6 if box.region else 1)
            for i, line in enumerate(box.lines):
                self._line(svg, line, place, place.y + PAD_Y + i * LINE_HEIGHT)
            label = caption(box, self.groups[box.name])
            if label:
                self._caption(svg, box, label, place)
        svg.close()

    def _caption(self, svg: Svg, box: Box, label: str, place: Rect) -> None:
        i = _caption_line(box)
        badges = _pills_width(box.lines[i].marks) + 6 if box.lines[i].marks else 0.0
        svg.text(place.right - PAD_X - badges, place.y + PAD_Y + 12 + i * LINE_HEIGHT, label, TINY, GREY, anchor="end")

    def _line(self, svg: Svg, line: Line, place: Rect, y: float) -> None:
        if self.scheme.shown(line.created_by):
            fill = self.scheme.colour(line.created_by)[0]
            svg.rect(Rect(place.x + 2, y + 1, place.width - 4, LINE_HEIGHT - 2), _tint(fill), radius=3)
            svg.rect(Rect(place.x - 2, y + 1, 4, LINE_HEIGHT - 2), fill, radius=2)
        svg.words(place.x + PAD_X, y + 12.5, line.operation, line.detail, TEXT, INK)
        self._pills(svg, line.marks, place.right - PAD_X + 3 - _pills_width(line.marks), y + 2)

    def _pills(self, svg: Svg, marks: Sequence[Mark], x: float, y: float) -> None:
        for mark in marks:
            fill, ink = self.scheme.colour(mark.created_by)
            width = _pill_width(mark)
            svg.open("mark", [mark.node], f"{mark.node} by {mark.created_by}" if mark.created_by else mark.node)
            svg.rect(Rect(x, y, width, PILL_HEIGHT), fill, "#ffffff", PILL_HEIGHT / 2)
            svg.text(x + width / 2, y + 9.8, mark.label, TINY, ink, bold=True, anchor="middle")
            svg.close()
            x += width + 2

    # -- wires ---------------------------------------------------------------------------------------------------------

    def _marks(self, svg: Svg, x: float, y: float) -> None:
        """Pills and shapes at the exits, pills at the entries, letters where wires are cut."""
        leaving: set[int] = set()
        for route in self.layout.routes:
            wire = self.summary.wires[route.net]
            first, last = route.stretches[0], route.stretches[-1]
            sink = wire.sinks[route.use].marks
            self._pills(svg, sink, x + last.x - _pills_width(sink) / 2, y + last.bottom - PILL_HEIGHT - 8)
            if route.net not in leaving and (route.net, route.use) not in self.layout.references:
                leaving.add(route.net)
                self._exit(svg, route, wire, x + first.x, y + first.top)
        for net in self.letters:
            place = self.layout.boxes[self.summary.wires[net].box]
            self._letter(svg, net, x + place.right - 3, y + place.bottom - 1)

    def _exit(self, svg: Svg, route: Route, wire: Wire, x: float, y: float) -> None:
        width = _pills_width(wire.marks)
        self._pills(svg, wire.marks, x - width / 2, y + 4)
        others = [w for w in self.summary.wires if w.box == wire.box]
        if wire.shape and wire is others[-1]:
            svg.text(x + width / 2 + 5, y + 14, wire.shape, SMALL, GREY, halo="#ffffff")

    def _letter(self, svg: Svg, net: int, x: float, y: float) -> None:
        letter = self.letters[net]
        width = text_width(letter, TINY, bold=True) + 8
        svg.rect(Rect(x - width / 2, y - 6.5, width, 13), INK, "#ffffff", 3)
        svg.text(x, y + 3.2, letter, TINY, "#ffffff", bold=True, anchor="middle")

    def _reference(self, svg: Svg, net: int, place: Rect) -> None:
        wire = self.summary.wires[net]
        svg.open("reference", [wire.box], f"from {wire.box}")
        self._letter(svg, net, place.x + place.width / 2, place.y + place.height / 2)
        svg.close()

    # -- frames --------------------------------------------------------------------------------------------------------

    def _frame(self, svg: Svg, frame: Frame, x: float, y: float) -> None:
        place = frame.rect.moved(x, y)
        fill, edge = FRAMES[min(frame.depth, 1)]
        if frame.group in self.summary.repeats:
            edge = "#aeb8c4"
            svg.rect(place.moved(4, 4), fill, edge, 8)
        svg.rect(place, fill, edge, 8)

    def _frame_label(self, svg: Svg, frame: Frame, x: float, y: float) -> None:
        """The module's path, without that of the frame around it unless a mere number would be left."""
        place = frame.rect.moved(x, y)
        around = [f.group for f in self.layout.frames if f.depth < frame.depth and frame.group.startswith(f"{f.group}.")]
        short = frame.group.removeprefix(f"{around[-1]}.") if around else frame.group
        text = (frame.group if short[0].isdigit() else short) + (" …" if frame.again else "")
        if frame.group in self.summary.repeats:
            last, count = self.summary.repeats[frame.group]
            text = f"×{count}  {frame.group}–{last[len(frame.group.rstrip(string.digits)) :]}"
        colour = INK if frame.group in self.summary.repeats else GREY
        text = cut(text, SMALL, place.width - 12, bold=True)
        svg.text(place.x + 7, place.y + 12, text, SMALL, colour, bold=True, halo=FRAMES[min(frame.depth, 1)][0])


def caption(box: Box, groups: Sequence[str]) -> str:
    """What a box is called within the innermost of its `groups`; empty where that only says what its operation is."""
    prefix = groups[-1].replace(".", "_") + "_" if groups else ""
    name = box.name.removeprefix(prefix).strip("_")
    plain = name.rstrip(string.digits + "_")
    return "" if not plain or plain.endswith(box.lines[0].operation) or box.kind != "operation" else name


def _tint(colour: str, share: float = 0.2) -> str:
    """`colour` mixed with white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


def _caption_line(box: Box) -> int:
    """The line that has the caption at its end: the second where there is room, as first lines tend to be long."""
    return int(len(box.lines) > 1 and not box.lines[1].marks)


def _letters(i: int) -> str:
    return string.ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "")


def _pill_width(mark: Mark) -> float:
    return text_width(mark.label, TINY, bold=True) + 2 * PILL_PAD


def _pills_width(marks: Sequence[Mark]) -> float:
    return sum(map(_pill_width, marks)) + 2 * max(len(marks) - 1, 0)
