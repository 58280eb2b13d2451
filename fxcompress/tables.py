"""Tables as text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def printed(table: Table, width: int = 110) -> str:
    """`table` as it prints in a plain terminal of so many columns."""
    console = Console(width=width, force_terminal=False, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
