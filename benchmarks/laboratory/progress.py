"""Progress of the laboratory: a bar of all runs and one of the run that is going on; a line for each finished one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class RunProgress:
    """What `shown` yields."""

    def __init__(self, bars: Progress, total: int):
        self.bars = bars
        self.all = bars.add_task("runs", total=total)
        self.one = bars.add_task("", total=1)
        self.name = ""

    def start(self, name: str) -> None:
        """A run begins."""
        self.name = name
        self.bars.reset(self.one, description=name, total=1)

    def step(self, description: str, done: int, total: int) -> None:
        """So much of the run is done."""
        self.bars.update(self.one, description=f"{self.name}: {description}", completed=done, total=total)

    def done(self, line: str) -> None:
        """A run has ended well, `line` says how."""
        self.bars.console.print(line, highlight=False)
        self.bars.advance(self.all)


@contextmanager
def shown(console: Console, total: int) -> Iterator[RunProgress]:
    """Show the progress of `total` runs on `console`; only the lines where it is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield RunProgress(bars, total)
