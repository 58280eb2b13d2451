"""What the driver did: one row a pass."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from torch.utils import _pytree as pytree

from fxcompress.report.ranges import RangeChoice, ranges_table
from fxcompress.report.tables import printed, titled
from fxcompress.report.units import readable_bytes, readable_decibels

_LABEL = 60
"""Characters of a pass with its options that are said again before each of its notes."""


@dataclass(frozen=True)
class Row:
    """One pass: node counts, rewrites, bytes of weights afterwards, agreement in dB (None: unchecked), milliseconds.

    `ranges` are the ranges that it chose by their cost, if it did.
    """

    name: str
    effect: str
    nodes_before: int
    nodes_after: int
    rewrites: int
    bytes: int
    decibels: float | None
    milliseconds: float
    notes: tuple[str, ...] = ()
    ranges: tuple[RangeChoice, ...] = ()

    @property
    def label(self) -> str:
        """The name where it is short, else without the options, which the table has in full."""
        return self.name if len(self.name) <= _LABEL else f"{self.name.partition('(')[0]}(...)"


@dataclass
class Report:
    """The rows in the order of the passes; print it for a table. `remarks` concern the whole model."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What could not be done, and why, pass by pass."""
        return [f"{row.label}: {note}" for row in self.rows for note in row.notes] + self.remarks

    @property
    def ranges(self) -> list[RangeChoice]:
        """The ranges of activations as they were chosen last, with what others would have cost."""
        return next((list(row.ranges) for row in reversed(self.rows) if row.ranges), [])

    def ranges_table(self) -> Table:
        """`ranges` as a table, for `rich.print`."""
        return ranges_table(self.ranges)

    @property
    def milliseconds(self) -> float:
        return sum(row.milliseconds for row in self.rows)

    def plain(self) -> dict[str, Any]:
        """Rows and notes as plain data, for `json`; what is not finite is text, such as ``"inf"``."""
        rows = [{**asdict(row), "notes": list(row.notes)} for row in self.rows]
        return pytree.tree_map(_finite, {"rows": rows, "notes": self.notes})

    def replace(self, row: Row) -> None:
        """Put `row` at the end, in the place of one of the same name."""
        self.rows[:] = [*(old for old in self.rows if old.name != row.name), row]

    def table(self) -> Table:
        numbers = ("nodes", "rewrites", "weights", "dB", "ms")
        caption = "\n".join(["", *self.notes]) if self.notes else None
        table = titled(None, "pass", "effect", *numbers, numbers=numbers, caption=caption)
        for row in self.rows:
            table.add_row(
                row.name.removesuffix("()"),
                row.effect,
                f"{row.nodes_before} → {row.nodes_after}",
                str(row.rewrites),
                readable_bytes(row.bytes),
                readable_decibels(row.decibels),
                f"{row.milliseconds:.0f}",
            )
        return table

    def __str__(self) -> str:
        return printed(self.table())


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
