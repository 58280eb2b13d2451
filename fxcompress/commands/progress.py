"""Progress on the terminal: one line for what is going on, gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

Show = Callable[[str, int, int | None], None]


@contextmanager
def shown(console: Console, first: str) -> Iterator[Show]:
    """A function of (description, done, total) that shows them on `console`; `first` is shown until it is called."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        current: dict[str, TaskID] = {first: bar.add_task(first, total=None)}

        def show(description: str, done: int, total: int | None) -> None:
            if description not in current:
                for task in current.values():
                    bar.remove_task(task)
                current.clear()
                current[description] = bar.add_task(description, total=total)
            bar.update(current[description], completed=done, total=total)

        yield show
