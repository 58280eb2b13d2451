"""Controllers: a training loop's hold on what passes put into the graph."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from rich.table import Table
from torch import Tensor

from fxcompress.errors import InputError, did_you_mean, shown
from fxcompress.report.tables import printed
from fxcompress.training.scheduler import CompositeScheduler, Scheduler

_STEP = (
    "in the training loop call compiled.controller.scheduler.epoch_step() at the start of every epoch, and step() at that of "
    "every optimizer step"
)
_KEEP_MASKS = (
    "masks are buffers without an average, so average a model with AveragedModel(..., use_buffers=False), which takes them as "
    "they are, and load a state of the same level"
)


@functools.total_ordering
class CompressionStage(Enum):
    """How much of what was asked for is there yet; a checkpoint is worth comparing with others of the same stage only."""

    UNCOMPRESSED = "uncompressed"
    PARTIALLY_COMPRESSED = "partially compressed"
    FULLY_COMPRESSED = "fully compressed"

    def __lt__(self, other: object) -> bool:
        """In the order in which training comes to them."""
        if not isinstance(other, CompressionStage):
            return NotImplemented
        stages = list(CompressionStage)
        return stages.index(self) < stages.index(other)


@dataclass(frozen=True)
class Statistics:
    """Figures of the compressed model, for people; print it.

    Attributes:
        tables: for each, what it shows.
    """

    tables: tuple[Table, ...] = ()

    def __str__(self) -> str:
        return "\n".join(printed(table) for table in self.tables)


class Controller:
    """The hold on one pass's work in a compiled model. Subclasses override what applies to them.

    A controller keeps no state of its own but its scheduler: ranges, masks and thresholds live in the modules of the
    graph, so that the model's `state_dict` has them all.

    Attributes:
        scheduler: step it in the training loop.
    """

    def __init__(self, scheduler: Scheduler | None = None):
        self.scheduler = scheduler or Scheduler()

    def loss(self) -> Tensor:
        """The term to add to the training loss, a scalar; zero where the method needs none."""
        return torch.zeros(())

    @property
    def has_loss(self) -> bool:
        """Whether `loss` adds something, now or later."""
        return type(self).loss is not Controller.loss

    def statistics(self) -> Statistics:
        """What the model's compression looks like now."""
        return Statistics()

    def compression_stage(self) -> CompressionStage:
        """How far the schedule has come."""
        return CompressionStage.FULLY_COMPRESSED

    def not_begun(self) -> str | None:
        """What the model still lacks since `Scheduler.epoch_step` was never called; None where nothing was forgotten."""
        return None

    def overwritten(self) -> str | None:
        """What the model lacks of what the schedule put into it, since something else took that out; None for nothing."""
        return None

    def lacking(self) -> Iterator[str]:
        """What the model lacks, and what to do."""
        if forgotten := self.not_begun():
            yield f"less compression than was asked for, {forgotten}; {_STEP}"
        if taken_out := self.overwritten():
            yield f"less compression than its schedule gave it, {taken_out}; {_KEEP_MASKS}"


class CompositeController(Controller):
    """All controllers of a compiled model; `controller["Sparsify"]` is one of them."""

    def __init__(self, children: Mapping[str, Controller]):
        self.children = dict(children)
        super().__init__(CompositeScheduler({name: child.scheduler for name, child in self.children.items()}))

    def __getitem__(self, name: str) -> Controller:
        if not isinstance(name, str) or name not in self.children:
            there = f"; there are {', '.join(map(repr, self.children))}" if self.children else ", nor any other"
            raise InputError(f"there is no controller {shown(name)}{did_you_mean(name, self.children)}{there}")
        return self.children[name]

    def loss(self) -> Tensor:
        """The sum of the children's."""
        return sum((child.loss() for child in self.children.values()), torch.zeros(()))

    @property
    def has_loss(self) -> bool:
        return any(child.has_loss for child in self.children.values())

    def statistics(self) -> Statistics:
        """The children's, one after the other."""
        return Statistics(tuple(table for child in self.children.values() for table in child.statistics().tables))

    def compression_stage(self) -> CompressionStage:
        """The children's common stage, or partially compressed where they differ; fully where nothing is left to come."""
        stages = {child.compression_stage() for child in self.children.values()} or {CompressionStage.FULLY_COMPRESSED}
        return stages.pop() if len(stages) == 1 else CompressionStage.PARTIALLY_COMPRESSED

    def not_begun(self) -> str | None:
        """The children's, each with its name."""
        return _listed({name: child.not_begun() for name, child in self.children.items()})

    def overwritten(self) -> str | None:
        """The children's, each with its name."""
        return _listed({name: child.overwritten() for name, child in self.children.items()})


def _listed(lacks: Mapping[str, str | None]) -> str | None:
    return "; ".join(f"{name}: {lack}" for name, lack in lacks.items() if lack) or None


def compose(controllers: Sequence[tuple[str, Controller]]) -> CompositeController:
    """One controller for all, each under its name, numbered from the second of the same name on: ``Sparsify_2``."""
    named: dict[str, Controller] = {}
    for name, controller in controllers:
        number = sum(one.partition("_")[0] == name for one in named) + 1
        named[name if number == 1 else f"{name}_{number}"] = controller
    return CompositeController(named)
