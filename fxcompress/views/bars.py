"""A bar chart as SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fxcompress.views.layout.shapes import Rect
from fxcompress.views.picture import GREY, INK, MARGIN, PALETTE, PLAIN_EDGE, SMALL, TEXT
from fxcompress.views.svg import Svg, cut, text_width

BAR, PITCH = 11.0, 16.0
LABELS, LENGTH = 260.0, 440.0
GAP = 8.0

_NOTHING = 1e-300


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length in the chart's unit (None: off the scale), what is written at its end, its kind."""

    label: str
    value: float | None
    written: str
    kind: str


def bar_chart(title: str, axis: str, bars: Sequence[Bar]) -> str:
    """The text of an SVG file with a horizontal bar for each of `bars`, from the top, coloured by kind.

    `axis` says what the lengths are. Values below zero go to the left of it; a bar off the scale goes to the chart's edge.
    """
    drawing = Svg(title)
    colours = {kind: fill for kind, (fill, _) in zip(sorted({bar.kind for bar in bars}), itertools.cycle(PALETTE))}
    values = [0.0, *(bar.value for bar in bars if bar.value is not None)]
    step = _step(max(values) - min(values))
    ticks = range(math.floor(min(values) / step), math.floor(max(values) / step) + 2)
    scale = LENGTH / (step * (len(ticks) - 1))
    top = MARGIN + 58
    left, bottom = MARGIN + LABELS + GAP, top + PITCH * len(bars)
    zero = left - ticks[0] * step * scale
    drawing.words(MARGIN, MARGIN + 12, title, "", TEXT + 2, INK)
    _legend(drawing, colours, MARGIN + 32)
    for tick in ticks:
        x = zero + tick * step * scale
        drawing.path(f"M{x:.1f} {top:.1f}V{bottom:.1f}", PLAIN_EDGE, 0.6)
        drawing.text(x, top - 6, f"{tick * step:g}", SMALL, GREY, anchor="middle")
    drawing.text(left - 3 * GAP, top - 6, axis, SMALL, GREY, anchor="end")  # clear of the first tick
    for row, bar in enumerate(bars):
        y = top + row * PITCH + (PITCH - BAR) / 2
        start, end = sorted((zero, left + LENGTH if bar.value is None else zero + bar.value * scale))
        drawing.open("bar", [bar.label], f"{bar.label}: {bar.written}")
        drawing.text(left - GAP, y + BAR - 1.5, cut(bar.label, SMALL, LABELS), SMALL, INK, anchor="end")
        drawing.rect(Rect(start, y, end - start, BAR), colours[bar.kind])
        drawing.text(end + 4, y + BAR - 1.5, bar.written, SMALL, INK, halo="#ffffff")
        drawing.close()
    room = max((text_width(bar.written, SMALL) for bar in bars), default=0.0)
    return drawing.render(left + LENGTH + room + GAP + MARGIN, bottom + MARGIN, GREY)


def _legend(drawing: Svg, colours: dict[str, str], y: float) -> None:
    x = MARGIN
    for kind, fill in colours.items():
        drawing.rect(Rect(x, y - 9, 10, 10), fill)
        drawing.text(x + 15, y, kind, SMALL, INK)
        x += 15 + text_width(kind, SMALL) + 2 * GAP


def _step(span: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, such that at most ten of them fit into `span`.

    Spans so small that a length divided by them is beyond all floats are nothing.
    """
    least = math.floor(math.log10(span)) - 1 if span > _NOTHING else 0
    return next(step * 10.0**power for power in itertools.count(least) for step in (1, 2, 5) if span <= 10 * step * 10.0**power)
