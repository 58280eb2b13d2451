"""Progress on the terminal: one line for what is going on, gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

Show = Callable[[str, int, int | None], None]


class _Amount(ProgressColumn):
    """A bar where the total is known, nothing where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = BarColumn(24)

    def render(self, task: Task) -> RenderableType:
        return self.bar.render(task) if task.total else Text()


class _Count(ProgressColumn):
    def render(self, task: Task) -> RenderableType:
        return Text(f"{task.completed:.0f} of {task.total:.0f}" if task.total else "", style="dim")


@contextmanager
def shown(console: Console, first: str) -> Iterator[Show]:
    """A function of (description, done, total) that shows them on `console`; `first` is shown until it is called.

    Nothing is written where `console` is not a terminal.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _Amount(), _Count(), TimeElapsedColumn())
    options = {"transient": True, "refresh_per_second": 5, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as bar:  # type: ignore[arg-type]
        current: dict[str, TaskID] = {first: bar.add_task(first, total=None)}

        def show(description: str, done: int, total: int | None) -> None:
            if description not in current:
                for task in current.values():
                    bar.remove_task(task)
                current.clear()
                current[description] = bar.add_task(description, total=total)
            bar.update(current[description], completed=done, total=total)

        yield show
