"""Bar charts of a task's table: what each stack loses, and how large its file is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.scoreboard import Section
from fxcompress.storage.atomic import write_text
from fxcompress.views.bars import Bar, bar_chart

_CHARTS = {"drop": ("points lost against FP32", "points"), "file": ("size of the file", "kB")}
"""Of each quantity: what its chart is called, and the unit of its axis."""


def write(task: str, sections: Sequence[Section], folder: Path) -> list[Path]:
    """An SVG file in `folder` for each quantity of each section, which is of one network and has drops; returns their paths."""
    written = []
    for section in sections:
        if not any(figure.quantity == "drop" for figure in section.figures):
            continue
        network = section.title.rpartition(", ")[2]
        for quantity, (title, axis) in _CHARTS.items():
            figures = [figure for figure in section.figures if figure.quantity == quantity]
            bars = [Bar(one.subject, one.value, one.text(), task) for one in figures]
            path = folder / f"{task}_{network}_{quantity}.svg"
            written.append(write_text(path, bar_chart(f"{task}, {network}: {title}", axis, bars)))
    return written
