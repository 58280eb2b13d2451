"""What a task is: an example of training, the stacks that it is run with, and what they may lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FLOAT = "float"


@dataclass(frozen=True)
class Stack:
    """A row of the table.

    Attributes:
        title: of the row.
        arguments: of the example, how it is trained.
        max_drop: how far the score may lie below FP32's, in points; None for no bar.
        networks: that it makes sense for; None for all.
        more: arguments for some of the networks, which count before the others.
    """

    title: str
    arguments: tuple[str, ...] = ()
    max_drop: float | None = None
    networks: tuple[str, ...] | None = None
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One example on one set of data.

    Attributes:
        title, score, about: of the table; `score` is the unit of a score, "points" or "percent", with its name.
        stacks: by the name that the example has for them, the float one first, which the others start from.
        networks: the arguments of the example for each, by name.
        data: writes the data into a folder, or a little of it, and returns the arguments that name it.
        start: the arguments of a stack that starts from the folder of the trained float model.
        quick: arguments of a run that only shows that everything runs.
    """

    name: str
    title: str
    score: str
    about: str
    stacks: Mapping[str, Stack]
    networks: Mapping[str, Callable[[], Sequence[str]]]
    data: Callable[[Path, bool], Sequence[str]]
    start: Callable[[Path], Sequence[str]]
    quick: Sequence[str] = field(default=("--limit", "32", "--valid-limit", "32", "--epochs", "1"))


@dataclass(frozen=True)
class Run:
    """One network, stack and seed."""

    network: str
    stack: str
    seed: int

    def folder(self, of_task: Path) -> Path:
        """Where its checkpoints, files and result lie."""
        return of_task / self.network / f"seed{self.seed}" / self.stack

    def command(self, task: Task, of_task: Path, data: Sequence[str], more: Sequence[str]) -> list[str]:
        """The arguments of the example; those that come later count."""
        start = [] if self.stack == FLOAT else task.start(Run(self.network, FLOAT, self.seed).folder(of_task))
        own = ["--stack", self.stack, "--seed", str(self.seed), "--output", str(self.folder(of_task))]
        stack = task.stacks[self.stack]
        return [*data, *task.networks[self.network](), *start, *stack.arguments, *stack.more.get(self.network, ()), *own, *more]


def runs(task: Task, networks: Sequence[str], stacks: Sequence[str], seeds: int) -> list[Run]:
    """What there is to run: each float model before what starts from it, and the first seed of everything first."""
    wanted = [name for name in task.stacks if name in stacks or name == FLOAT]
    return [
        Run(network, name, seed)
        for seed in range(seeds)
        for network in networks
        for name in wanted
        if task.stacks[name].networks is None or network in task.stacks[name].networks
    ]
