"""A bar chart as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from fxcompress.views.layout.shapes import Rect
from fxcompress.views.picture import GREY, INK, MARGIN, PALETTE, PLAIN_EDGE, SMALL, TEXT
from fxcompress.views.svg import Svg, cut, text_width

BAR, PITCH = 11.0, 16.0
LABELS, LENGTH = 260.0, 440.0
GAP = 8.0


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length in the chart's unit (None: off the scale), what is written at its end, its kind."""

    label: str
    value: float | None
    written: str
    kind: str


def bar_chart(title: str, axis: str, bars: Sequence[Bar]) -> str:
    """The text of an SVG file with a horizontal bar for each of `bars`, from the top, coloured by kind.

    `axis` says what the lengths are. Values below zero are drawn as zero; a bar off the scale goes to the chart's edge.
    """
    drawing = Svg(title)
    colours = {kind: fill for kind, (fill, _) in zip(sorted({bar.kind for bar in bars}), itertools.cycle(PALETTE))}
    largest = max([0.0, *(bar.value for bar in bars if bar.value is not None)])
    step = _step(largest)
    ticks = range(int(largest // step) + 2)
    scale = LENGTH / (step * ticks[-1])
    top = MARGIN + 58
    left, bottom = MARGIN + LABELS + GAP, top + PITCH * len(bars)
    drawing.words(MARGIN, MARGIN + 12, title, "", TEXT + 2, INK)
    _legend(drawing, colours, MARGIN + 32)
    for tick in ticks:
        x = left + tick * step * scale
        drawing.path(f"M{x:.1f} {top:.1f}V{bottom:.1f}", PLAIN_EDGE, 0.6)
        drawing.text(x, top - 6, f"{tick * step:g}", SMALL, GREY, anchor="middle")
    drawing.text(left - GAP, top - 6, axis, SMALL, GREY, anchor="end")
    for row, bar in enumerate(bars):
        y = top + row * PITCH + (PITCH - BAR) / 2
        length = LENGTH if bar.value is None else max(bar.value, 0.0) * scale
        drawing.open("bar", [bar.label], f"{bar.label}: {bar.written}")
        drawing.text(left - GAP, y + BAR - 1.5, cut(bar.label, SMALL, LABELS), SMALL, INK, anchor="end")
        drawing.rect(Rect(left, y, length, BAR), colours[bar.kind])
        drawing.text(left + length + 4, y + BAR - 1.5, bar.written, SMALL, INK, halo="#ffffff")
        drawing.close()
    room = max((text_width(bar.written, SMALL) for bar in bars), default=0.0)
    return drawing.render(left + LENGTH + room + GAP + MARGIN, bottom + MARGIN, GREY)


def _legend(drawing: Svg, colours: dict[str, str], y: float) -> None:
    x = MARGIN
    for kind, fill in colours.items():
        drawing.rect(Rect(x, y - 9, 10, 10), fill)
        drawing.text(x + 15, y, kind, SMALL, INK)
        x += 15 + text_width(kind, SMALL) + 2 * GAP


def _step(largest: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, at least 1, so that at most ten fit below `largest`."""
    return next(step * 10.0**power for power in itertools.count() for step in (1, 2, 5) if largest <= 10 * step * 10.0**power)
