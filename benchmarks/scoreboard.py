"""Figures against their bars: as tables in the terminal, in markdown, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.machine import one_line
from benchmarks.medians import Estimate
from fxcompress.storage.atomic import write_text

FORMATS = {
    "ms": "{:.2f} ms",
    "s": "{:.2f} s",
    "times": "{:.2f}x",
    "ratio": "{:.3f}",
    "us": "{:.0f} us",
    "cosine": "{:.4f}",
    "%": "{:.1f}%",
    "percent": "{:.2f}%",
    "points": "{:+.2f}",
    "bits": "{:.1f}",
    "M": "{:.2f} M",
    "kB": "{:.0f} kB",
    "dB": "{:.1f} dB",
    "count": "{:.0f}",
}
"""How a value of each unit is written."""

MET, UNDECIDED, MISSED = "met", "within noise", "missed"
MARKS = {MET: "✓", UNDECIDED: "≈", MISSED: "✗", None: ""}
STYLES = {MET: "green", UNDECIDED: "yellow", MISSED: "red", None: ""}


@dataclass(frozen=True)
class Bar:
    """What a figure is to reach: "at most" or "at least" `limit`."""

    kind: str
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in ("at most", "at least"):
            raise ValueError(f'a bar is "at most" or "at least", not {self.kind!r}')

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True)
class Figure:
    """One measured value: of what subject (a row), which quantity (a column), its unit, interval and bar."""

    subject: str
    quantity: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    bar: Bar | None = None

    @classmethod
    def of(cls, subject: str, quantity: str, estimate: Estimate, unit: str, bar: Bar | None = None) -> Figure:
        return cls(subject, quantity, estimate.value, unit, estimate.low, estimate.high, bar)

    @property
    def verdict(self) -> str | None:
        """Whether the bar is met; "within noise": missed, but not beyond the interval; None: there is no bar."""
        if self.bar is None:
            return None
        if self.bar.reached(self.value):
            return MET
        ends = [end for end in (self.low, self.high) if end is not None]
        return UNDECIDED if any(map(self.bar.reached, ends)) else MISSED

    def text(self, interval: bool = True) -> str:
        """The value with its unit, and its interval in brackets where there is one."""
        written = self.write(self.value)
        if interval and self.low is not None and self.high is not None:
            written += f" [{self._bare(self.low)}, {self._bare(self.high)}]"
        return written

    def write(self, value: float) -> str:
        """`value` in this figure's unit."""
        return "∞" if math.isinf(value) else FORMATS[self.unit].format(value)

    def _bare(self, value: float) -> str:
        return self.write(value).partition(" ")[0].rstrip("x%")


@dataclass
class Section:
    """The figures of one benchmark, with a sentence on how they were taken and whatever is worth a note."""

    title: str
    method: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def grid(self) -> tuple[list[str], list[tuple[str, list[Figure | None]]]]:
        """(columns, rows), a row as its name and its cells; the longer of subjects and quantities runs downwards."""
        subjects = list(dict.fromkeys(figure.subject for figure in self.figures))
        quantities = list(dict.fromkeys(figure.quantity for figure in self.figures))
        by_place = {(figure.subject, figure.quantity): figure for figure in self.figures}
        if len(subjects) >= len(quantities):
            return quantities, [(s, [by_place.get((s, q)) for q in quantities]) for s in subjects]
        return subjects, [(q, [by_place.get((s, q)) for s in subjects]) for q in quantities]

    def table(self) -> Table:
        """The figures, for the terminal."""
        columns, rows = self.grid()
        table = Table(box=box.SIMPLE)
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for name, figures in rows:
            table.add_row(name, *(_cell(figure) for figure in figures))
        return table

    def markdown(self) -> str:
        columns, rows = self.grid()
        body = [[name, *(_plain(figure) for figure in figures)] for name, figures in rows]
        table = f"\n{_markdown_table(['', *columns], body)}" if self.figures else ""
        notes = "".join(f"* {note}\n" for note in self.notes)
        return f"## {self.title}\n\n{self.method}\n{table}" + (f"\n{notes}" if notes else "")


def _cell(figure: Figure | None) -> Text:
    if figure is None:
        return Text()
    return Text(_plain(figure), style=STYLES[figure.verdict])


def _plain(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.text()} {MARKS[figure.verdict]}".rstrip()


JUDGED_COLUMNS = ["benchmark", "figure", "measured", "bar", "verdict"]


def _judged(sections: Sequence[Section]) -> list[list[str]]:
    """A line of `JUDGED_COLUMNS` for every figure that has a bar."""
    return [
        [
            section.title,
            f"{figure.subject}: {figure.quantity}",
            figure.text(),
            f"{figure.bar.kind} {figure.write(figure.bar.limit)}",
            figure.verdict or "",
        ]
        for section in sections
        for figure in section.figures
        if figure.bar
    ]


def summary(sections: Sequence[Section]) -> Table:
    """Every bar with its verdict, for the terminal."""
    table = Table(title="Bars", title_justify="left", box=box.SIMPLE)
    for column in JUDGED_COLUMNS:
        table.add_column(column)
    for line in _judged(sections):
        table.add_row(*map(Text, line), style=STYLES[line[-1]])
    return table


def show(sections: Sequence[Section], machine: dict[str, Any], console: Console | None = None) -> None:
    """Print every section and the summary of bars."""
    console = console or Console()
    for section in sections:
        console.print(Text(section.title, style="bold"))
        if section.figures:
            console.print(section.table())
        for paragraph in (section.method, *section.notes):
            console.print(Text(paragraph, style="dim"))
        console.print()
    console.print(summary(sections))
    console.print(Text(one_line(machine), style="dim"))


def to_markdown(sections: Sequence[Section], machine: dict[str, Any]) -> str:
    """The whole as a document."""
    bars = _markdown_table(JUDGED_COLUMNS, _judged(sections))
    parts = ["# Benchmarks", f"{one_line(machine)}. Load average before: {machine['load average before']}."]
    parts += [*(section.markdown() for section in sections), f"## Bars\n\n{bars}"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def to_json(sections: Sequence[Section], machine: dict[str, Any]) -> str:
    """The whole as data; infinities are written as strings."""
    document = {"machine": machine, "sections": [_section_data(section) for section in sections]}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _section_data(section: Section) -> dict[str, Any]:
    figures = [
        {key: _number(value) for key, value in asdict(figure).items()} | {"verdict": figure.verdict}
        for figure in section.figures
    ]
    return {"title": section.title, "method": section.method, "notes": section.notes, "figures": figures}


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(sections: Sequence[Section], machine: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """Write ``stem.json`` and ``stem.md`` to `folder`, each under a temporary name first; returns the two paths."""
    texts = {".json": to_json(sections, machine), ".md": to_markdown(sections, machine)}
    return [write_text(folder / f"{stem}{suffix}", text) for suffix, text in texts.items()]


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)
