"""Tables as text."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_CALL = re.compile(r".+?(?:\(|, |(?<=[a-z])(?=[A-Z])|$)", re.DOTALL)
_NAME = re.compile(r".+?(?:[._ ]|(?<=[a-z])(?=[A-Z])|$)", re.DOTALL)
"""What a call, or a name, is not broken within: ``CanonicalizeActivations`` breaks before the A, a path behind its dots."""


class Breakable:
    """A name, or a call with its options, that is broken between its words where a column is too narrow for it."""

    def __init__(self, text: str):
        self.text, self.pieces = text, (_CALL if "(" in text else _NAME).findall(text)

    def __str__(self) -> str:
        return self.text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((len(piece.rstrip()) for piece in self.pieces), default=0)
        return Measurement(longest, max(len(self.text), longest)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for piece in self.pieces:
            if lines[-1] and len(lines[-1] + piece.rstrip()) > options.max_width:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(lines))


class _NamesBreak(Table):
    """A table whose texts on the left break between words."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        pairs = zip(cells, self.columns)
        super().add_row(*[Breakable(c) if isinstance(c, str) and o.justify == "left" else c for c, o in pairs], **options)


def titled(title: str | None, *headings: str, numbers: Collection[str] = (), caption: str | None = None) -> Table:
    """A table without rows under a title; the columns of `numbers` are aligned on the right."""
    look = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    table = _NamesBreak(title=title, title_justify="left", caption=caption, caption_justify="left", **look)  # type: ignore[arg-type]
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading in numbers)
    return table


def printed(table: Table, width: int = 110) -> str:
    """`table` as it prints in a plain terminal of so many columns."""
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
