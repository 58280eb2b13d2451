"""Tables as text."""

from __future__ import annotations

from collections.abc import Collection

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def titled(title: str, *headings: str, numbers: Collection[str] = ()) -> Table:
    """A table without rows under a title; the columns of `numbers` are aligned on the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    return table


def printed(table: Table, width: int = 110) -> str:
    """`table` as it prints in a plain terminal of so many columns."""
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
