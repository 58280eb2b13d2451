"""Changes to layers that are kept only where they bring the outputs nearer to the float model's.

What mends a layer's own output may harm the model's: it makes up for values that a range cuts off on purpose, or fits the few
samples that it was shown. So a change that is made layer by layer is judged at the outputs, on samples that did not choose it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.execution.agreement import decibels, energies
from fxcompress.execution.interpreter import advance_together
from fxcompress.quantization.by_rows import LookingUp
from fxcompress.report.units import readable_decibels
from fxcompress.storage.memory import give_back

Arguments = list[tuple[fx.Node, tuple[Any, ...]]]
"""Nodes, with what each reads."""


@dataclass
class Change:
    """What some nodes read, before and after a pass has had them read something else; `node` is the one it is told by.

    Of two changes that can be undone without one another, no node reads something else by both.
    """

    node: fx.Node
    before: Arguments
    after: Arguments

    @classmethod
    @contextmanager
    def recorded(cls, node: fx.Node, *others: fx.Node) -> Iterator[Change]:
        """What is done meanwhile to `node` and `others`, and to the quantizers and masks of their constants.

        What was computed on the way, as much as a large weight, is given back to the system.
        """
        known = [(one, one.args) for read in dict.fromkeys((node, *others)) for one in (read, *_chains(read))]
        change = cls(node, [], [])
        yield change
        changed = [(one, args) for one, args in known if one.args != args]
        change.before, change.after = changed, [(one, one.args) for one, _ in changed]
        give_back()

    def make(self) -> None:
        _set(self.after)

    def undo(self) -> None:
        _set(self.before)


PIECE = 2
"""Samples whose error is told apart from others'."""

TRIALS = 6
"""Measurements that passes of the default pipeline spend, at most."""


class OutputDifference:
    """How far the outputs of a model, as it stands, are from those of `reference`, as it stood, on some samples.

    In float32: judged in bfloat16, a range was kept that cost a small network 0.6 dB on other pictures.
    """

    def __init__(self, reference: fx.GraphModule, batches: Sequence[Leaves]):
        give_back()  # what chose the changes
        self.dimensions, batch = _sample_dimensions(reference.graph), Batch.of(reference.graph)
        size = PIECE if None in self.dimensions else sys.maxsize  # one run for all, where outputs can be told apart
        self.batches = [piece for given in batches for piece in batch.split(given, min(size, batch.count(given)))]
        self.wanted = self._pieces(reference)
        signals = [[energies(x, x)[0] for x in outputs] for outputs in self.wanted]
        self.signal = torch.tensor(signals, dtype=torch.float64).sum(0)

    def __call__(self, quantized: fx.GraphModule) -> Tensor:
        """The energy of the difference over that of the output, added up over outputs: ``[pieces]``, their parts of the sum."""
        pairs = zip(self.wanted, self._pieces(quantized), strict=True)
        noise = torch.tensor(
            [[energies(*pair)[1] for pair in zip(*outputs, strict=True)] for outputs in pairs], dtype=torch.float64
        )
        give_back()
        return (noise / self.signal.clamp(min=1e-30)).sum(1)

    def _pieces(self, graph_module: fx.GraphModule) -> list[list[Tensor]]:
        """The outputs of every `PIECE` samples."""
        found = _outputs(graph_module, self.batches)
        if None in self.dimensions:
            return found
        return [
            list(piece)
            for outputs in found
            for piece in zip(*(x.split(PIECE, dimension) for x, dimension in zip(outputs, self.dimensions, strict=True)))
        ]


def _sample_dimensions(graph: fx.Graph) -> list[int | None]:
    """Along which dimension the samples lie in each output of floats: that of the inputs' free size, where there is one."""
    batch = Batch.of(graph)
    free = {
        str(node.meta["val"].shape[dimension])
        for node, dimension in zip(graph.find_nodes(op="placeholder"), batch.dimensions)
        if dimension is not None and isinstance(node.meta["val"].shape[dimension], torch.SymInt)
    }
    values = [node.meta.get("val") for node in pytree.tree_leaves(graph.output_node().args) if isinstance(node, fx.Node)]
    found: list[int | None] = []
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            places = [dimension for dimension, size in enumerate(value.shape) if str(size) in free]
            found.append(places[0] if len(places) == 1 else None)
    return found or [None]


class Undoable(Protocol):
    """A change that is made, and can be undone and made again."""

    def make(self) -> None: ...

    def undo(self) -> None: ...


class UndoableAt(Undoable, Protocol):
    """One that is told by the name of a node."""

    @property
    def node(self) -> fx.Node: ...


Kind = TypeVar("Kind", bound=Undoable)
KindAt = TypeVar("KindAt", bound=UndoableAt)


@dataclass
class Verdict(Generic[Kind]):
    """The changes that were kept, the error with all of them made, and the error with those that were kept."""

    kept: list[Kind]
    together: Tensor
    error: Tensor


def keep_what_helps(
    changes: Sequence[Kind], error: Callable[[], Tensor], *, trials: int = sys.maxsize, margin: float = 0.0
) -> Verdict[Kind]:
    """Undo those of `changes`, all of them made, that do not make `error` smaller beside the others.

    They are tried together first, and by halves where they do not help together. So the error never grows, and where all is
    well two measurements tell it.

    Args:
        error: of the model as it stands, in parts that are independent of each other.
        trials: changes or groups of them that are tried, at most, at least 1; what has not been tried by then is undone.
        margin: standard errors that a gain over these parts is larger than, to count as one.
    """
    for change in changes:
        change.undo()
    least, kept, waiting = error(), list[Kind](), [list(changes)]
    measured: list[Tensor] = []
    while waiting and len(measured) < trials:
        group = waiting.pop(0)
        for change in group:
            change.make()
        measured.append(error())
        if _is_less(measured[-1], least, margin):
            least, kept = measured[-1], [*kept, *group]
            continue
        for change in group:
            change.undo()
        if len(group) > 1:
            waiting += [group[: len(group) // 2], group[len(group) // 2 :]]
    return Verdict(kept, measured[0], least)


def _is_less(found: Tensor, least: Tensor, margin: float) -> bool:
    """Whether the sum of `found` is less than that of `least`, by more than `margin` times the standard error of that."""
    gains = least - found
    chance = margin * gains.std() * len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return bool(gains.sum() > chance)


def judged(
    changes: Sequence[KindAt],
    quantized: Callable[[], fx.GraphModule],
    reference: fx.GraphModule,
    batches: Sequence[Leaves],
    *,
    notes: list[str],
    trials: int = sys.maxsize,
) -> list[KindAt]:
    """`keep_what_helps` on `batches`, with a note of what was undone and what the rest gained; without any, nothing is.

    Args:
        quantized: gives the model with the changes that are made at the time.
    """
    if not batches or not changes:
        notes.append("all changes are kept unseen: there are no samples that did not choose them")
        return list(changes)
    difference = OutputDifference(reference, batches)
    verdict = keep_what_helps(changes, lambda: difference(quantized()), trials=trials)
    undone = [change.node.name for change in changes if change not in verdict.kept]
    count = sum(map(Batch.of(reference.graph).count, batches))
    told = f"{len(verdict.kept)} of {len(changes)} changes bring the outputs of {count} other samples nearer"
    notes.append(f"{told}: {_decibels(verdict.together)} dB with all changes, {_decibels(verdict.error)} dB with these")
    if undone:
        notes.append(
            f"left as they were: {', '.join(undone[:5])}" + (f" and {len(undone) - 5} more" if len(undone) > 5 else "")
        )
    return verdict.kept


def _decibels(error: Tensor) -> str:
    return readable_decibels(decibels(1.0, error.sum().item()))


@torch.no_grad()
def _outputs(graph_module: fx.GraphModule, batches: Sequence[Leaves]) -> list[list[Tensor]]:
    """The floating-point outputs of the graph as it stands, compiled or not, for each batch."""
    executions, output = [LookingUp(graph_module, batch) for batch in batches], graph_module.graph.output_node()
    advance_together(executions, output)
    found = [pytree.tree_leaves(fx.map_arg(output.args, execution.value)) for execution in executions]
    return [[x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()] for leaves in found]


def _chains(node: fx.Node) -> Iterator[fx.Node]:
    """The quantizers and masks of the constants that `node` reads."""
    for constant in node.all_input_nodes[1:]:
        while constant.op == "call_module":
            yield constant
            constant = constant.all_input_nodes[0]


def _set(arguments: Arguments) -> None:
    for node, args in arguments:
        node.args = args
