"""Draw the rooms of the package and who imports whom, from the imports themselves. Usage: python -m docs.draw_rooms

An arrow leads from a room to one that it imports. Arrows that follow from others (a imports c where a imports b, and b
imports c) are left out. A test keeps the picture that is in the repository equal to the one drawn.
"""

from __future__ import annotations

import ast
from pathlib import Path

import networkx

from fxcompress.views.layout.page import lay_out
from fxcompress.views.layout.shapes import Item, Net, Rect
from fxcompress.views.svg import Svg, route_pieces, text_width
from tests.test_structure import MODULES, ROOMS, room_imports

FILE = Path(__file__).parent / "images" / "rooms.svg"
NAME, SMALL, LINE, MARGIN = 13.0, 10.0, 14.0, 20.0
INK, GREY, WIRE, FILL, EDGE, TOP = "#1f2933", "#55606b", "#76818d", "#e6eef7", "#86a2c1", "#f5f6f8"
WIDTH = 34
"""Characters of a line under a room's name."""


def sentence(room: str) -> list[str]:
    """What `room` says it is for, up to the first colon or comma, in lines."""
    module = {"patterns": "fxcompress.patterns", "passes": "fxcompress.passes"}.get(room, f"fxcompress.{room}")
    text = ast.get_docstring(ast.parse(MODULES["fxcompress" if room == "fxcompress" else module].read_text())) or ""
    words = text.partition("\n")[0].rstrip(".").partition(":")[0].replace("`", "").split()
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) >= WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:3]


def arrows() -> dict[str, list[str]]:
    """For each room those that it imports, without what follows from other arrows, in the order of the rooms."""
    graph = networkx.DiGraph([(room, other) for room, others in room_imports().items() for other in others])
    reduced = networkx.transitive_reduction(graph)
    return {room: sorted(reduced.successors(room), key=ROOMS.index) for room in reversed(ROOMS) if room in reduced}


def render() -> str:
    """The picture's text."""
    shown = {room: sentence(room) for room in arrows()}
    items = [Item(room, _width(room, lines), LINE * len(lines) + 26, 12.0, 12.0) for room, lines in shown.items()]
    nets = [Net(room, tuple(others)) for room, others in arrows().items() if others]
    layout = lay_out(items, nets, (1500.0, 1500.0))
    svg = Svg("The rooms of fxcompress; an arrow leads to what a room imports")
    for route in layout.routes:
        *pieces, last = route_pieces(route, MARGIN, MARGIN)
        for piece in pieces:
            svg.path(piece, WIRE)
        svg.path(last, WIRE, arrow=True)
    for room, place in layout.boxes.items():
        _box(svg, room, shown[room], place.moved(MARGIN, MARGIN))
    for (net, _), place in layout.references.items():
        at = place.moved(MARGIN, MARGIN)
        svg.text(at.x + at.width / 2, at.y + at.height / 2 + 3, nets[net].source, SMALL, GREY, anchor="middle", halo="#ffffff")
    return svg.render(layout.width + 2 * MARGIN, layout.height + 2 * MARGIN, WIRE)


def _width(room: str, lines: list[str]) -> float:
    return max(text_width(room, NAME, bold=True), *(text_width(line, SMALL) for line in lines)) + 20


def _box(svg: Svg, room: str, lines: list[str], place: Rect) -> None:
    folder = any(path.stem == "__init__" for name, path in MODULES.items() if name == f"fxcompress.{room}")
    svg.rect(place, FILL if folder else TOP, EDGE, 5)
    svg.text(place.x + 10, place.y + 18, room, NAME, INK, bold=True)
    for i, line in enumerate(lines):
        svg.text(place.x + 10, place.y + 33 + i * LINE, line, SMALL, GREY)


if __name__ == "__main__":
    FILE.write_text(render())
    print(f"wrote {FILE.name}")
