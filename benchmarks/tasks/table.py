"""The table of a task, from what its runs found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.medians import Estimate
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.tasks.recorded import Results
from benchmarks.tasks.task import FLOAT, Task

JUDGED = 3
"""Seeds that it takes to judge a bar: one says little about a few tenths of a point."""


def sections(task: Task, found: Results) -> list[Section]:
    """A table for each network that has rows."""
    return [_section(task, network, of_network) for network in task.networks if (of_network := _of(found, network=network))]


def _section(task: Task, network: str, found: Results) -> Section:
    section = Section(f"{task.title}, {network}", task.about)
    for name, stack in task.stacks.items():
        of_stack = _of(found, stack=name)
        if not of_stack:
            continue
        section.figures.append(_figure(stack.title, task.score, [one["score"] for one in of_stack.values()], "percent"))
        if name != FLOAT:
            drops = [one["float"] - one["score"] for one in of_stack.values()]
            bar = Bar("at most", stack.max_drop) if stack.max_drop is not None and len(drops) >= JUDGED else None
            section.figures.append(_figure(stack.title, "drop", drops, "points", bar))
        section.figures.append(_figure(stack.title, "file", [one["bytes"] / 1e3 for one in of_stack.values()], "kB"))
    section.notes += _trainings(task, found)
    if any(figure.low is not None for figure in section.figures):
        section.notes.append("Brackets are the least and the most of the seeds.")
    if any(stack.max_drop is not None and 0 < len(_of(found, stack=name)) < JUDGED for name, stack in task.stacks.items()):
        section.notes.append(f"No bar is judged on fewer than {JUDGED} seeds.")
    missing = [
        s.title for name, s in task.stacks.items() if not _of(found, stack=name) and network in (s.networks or (network,))
    ]
    return Section(
        section.title, section.method, section.figures, [*section.notes, *([f"Not run: {'; '.join(missing)}."] * bool(missing))]
    )


def _trainings(task: Task, found: Results) -> list[str]:
    """How much was trained, and where the runs were of several machines, on which: a sentence for all that are alike."""
    several = len({one["machine"] for one in found.values()}) > 1
    alike: dict[str, list[str]] = {}
    for name, stack in task.stacks.items():
        seeds: dict[str, list[int]] = {}
        for run, one in _of(found, stack=name).items():
            epochs = (
                f"{one['epochs']} epoch{'s' * (one['epochs'] != 1)} of {one['trained_on']}" if one["epochs"] else "not trained"
            )
            seeds.setdefault(f"{epochs} ({one['machine']})" if several else epochs, []).append(run.seed)
        for how, of_it in seeds.items():
            listed = ", ".join(map(str, sorted(of_it)))
            alike.setdefault(f"{how}, seed{'s' * (len(of_it) > 1)} {listed}", []).append(stack.title)
    return [f"{how}: {'; '.join(titles)}." for how, titles in alike.items()]


def _figure(subject: str, quantity: str, values: Sequence[float], unit: str, bar: Bar | None = None) -> Figure:
    mean = float(np.mean(values))
    if len(values) == 1 or unit == "kB":
        return Figure(subject, quantity, mean, unit, bar=bar)
    return Figure.of(subject, quantity, Estimate(mean, min(values), max(values)), unit, bar)


def _of(found: Results, **wanted: Any) -> Results:
    return {run: one for run, one in found.items() if all(getattr(run, name) == value for name, value in wanted.items())}
