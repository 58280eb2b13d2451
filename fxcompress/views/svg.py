"""Just enough SVG: shapes, text that is known to fit, escaping."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from fxcompress.views.layout.shapes import Rect, Route

# Advance widths in em, those of DejaVu Sans: the widest of the usual sans-serif fonts, so that text fits in any.
_WIDTHS = {width: set(chars) for width, chars in {0.29: "ijlI'|.,:;! ", 0.4: "frt()[]/\\-·", 0.85: "mwMW%@×→↔…≥"}.items()}
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text_width(text: str, size: float, bold: bool = False) -> float:
    """An upper bound of the width of `text` at font `size`, in the same unit."""
    em = sum(next((w for w, chars in _WIDTHS.items() if c in chars), 0.64 if ord(c) < 0x2000 else 1.0) for c in text)
    return em * size * (1.12 if bold else 1.0)


def cut(text: str, size: float, width: float, bold: bool = False) -> str:
    """`text`, shortened with an ellipsis to fit `width`."""
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(text + "…", size, bold) > width:
        text = text[:-1]
    return text + "…" if text else ""


class Svg:
    """A drawing that grows by one shape a call, later ones on top."""

    def __init__(self, title: str):
        self._parts: list[str] = []
        self._title = title

    def rect(self, place: Rect, fill: str, stroke: str = "none", radius: float = 0.0, width: float = 1.0) -> None:
        """A rectangle with rounded corners."""
        self._parts.append(
            f'<rect x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" rx="{radius:g}"'
            f' fill="{fill}" stroke="{stroke}" stroke-width="{width:g}"/>'
        )

    def text(self, x: float, y: float, text: str, size: float, fill: str, **look: str | bool) -> None:
        """A line of text with its baseline at `y`.

        `look` may have `bold`, `anchor` ("middle", "end"), and `halo`: the colour of a rim that keeps it legible on lines.
        """
        if not text:
            return
        style = ' font-weight="600"' if look.get("bold") else ""
        style += f' text-anchor="{look["anchor"]}"' if "anchor" in look else ""
        written = f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}"{style}'
        if "halo" in look:  # a text of its own: not every viewer paints the stroke behind the letters
            rim = f'fill="none" stroke="{look["halo"]}" stroke-width="3" stroke-linejoin="round"'
            self._parts.append(f'{written} {rim} aria-hidden="true">{_xml(text)}</text>')
        self._parts.append(f'{written} fill="{fill}">{_xml(text)}</text>')

    def words(self, x: float, y: float, bold: str, plain: str, size: float, fill: str) -> None:
        """A line that starts in bold and goes on plain."""
        rest = f'<tspan dx="{size / 2:g}" font-weight="400">{_xml(plain)}</tspan>' if plain else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" font-weight="600">{_xml(bold)}{rest}</text>'
        )

    def path(self, data: str, stroke: str, width: float = 1.3, arrow: bool = False) -> None:
        """A line along path `data`, with an arrow head at its end if asked for."""
        head = ' marker-end="url(#arrow)"' if arrow else ""
        self._parts.append(f'<path d="{data}" fill="none" stroke="{stroke}" stroke-width="{width:g}"{head}/>')

    def open(self, kind: str, nodes: Sequence[str], tooltip: str) -> None:
        """Begin a part that stands for `nodes` of the graph; a viewer shows its `tooltip` under the pointer."""
        names = quoteattr(" ".join(map(_clean, nodes)))
        self._parts.append(f'<g class="{kind}" data-nodes={names}><title>{_xml(tooltip)}</title>')

    def close(self) -> None:
        """End the part begun last."""
        self._parts.append("</g>")

    def render(self, width: float, height: float, arrow: str) -> str:
        """The file's text; `arrow` is the colour of arrow heads."""
        return "\n".join(
            [
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
                f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif">',
                f"<title>{_xml(self._title)}</title>",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6.5" markerHeight="6.5"'
                f' orient="auto"><path d="M0 0.8 L7.5 4 L0 7.2 z" fill="{arrow}"/></marker></defs>',
                f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def route_pieces(route: Route, dx: float, dy: float) -> list[str]:
    """Path data of a route moved by (`dx`, `dy`), piece by piece: uses of one net have their first pieces in common.

    Stretches are joined by curves that start and end vertically; the last piece is the stretch that ends at the reader.
    """
    pieces = []
    stretches = [stretch.moved(dx, dy) for stretch in route.stretches]
    for i, (before, after) in enumerate(pairwise(stretches)):
        if before.bottom > before.top:
            pieces.append(f"M{before.x:.1f} {before.top:.1f}V{before.bottom:.1f}")
        start = f"M{before.x:.1f} {before.bottom:.1f}"
        if i == route.turn:
            corners = _corners([(x + dx, y + dy) for x, y in route.detour])
            pieces.append(f"{start}{corners}L{after.x:.1f} {after.top:.1f}")
        elif abs(before.x - after.x) > 0.05:
            bend = (after.top - before.bottom) * 0.55
            points = [(before.x, before.bottom + bend), (after.x, after.top - bend), (after.x, after.top)]
            pieces.append(f"{start}C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in points))
        else:
            pieces.append(f"{start}V{after.top:.1f}")
    return [*pieces, f"M{stretches[-1].x:.1f} {stretches[-1].top:.1f}V{stretches[-1].bottom:.1f}"]


def _corners(points: list[tuple[float, float]], radius: float = 6.0) -> str:
    """Straight lines through `points`, which turn at right angles, with rounded corners; starts and ends vertically."""
    data = []
    (x0, y0), *_, (x3, y3) = points
    ends = [(x0, y0 - 2 * radius), *points, (x3, y3 + 2 * radius)]
    for (ax, ay), (bx, by), (cx, cy) in zip(ends, ends[1:], ends[2:]):
        r = min(radius, max(abs(ax - bx), abs(ay - by)) / 2, max(abs(bx - cx), abs(by - cy)) / 2)
        data.append(f"L{_towards(bx, ax, r):.1f} {_towards(by, ay, r):.1f}")
        data.append(f"Q{bx:.1f} {by:.1f} {_towards(bx, cx, r):.1f} {_towards(by, cy, r):.1f}")
    return "".join(data)


def _towards(start: float, end: float, distance: float) -> float:
    return start if start == end else start + distance if end > start else start - distance


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)


def _xml(text: str) -> str:
    return escape(_clean(text))
