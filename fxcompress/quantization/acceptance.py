"""Changes to layers that are kept only where they bring the outputs nearer to the float model's.

What mends a layer's own output may harm the model's: it makes up for values that a range cuts off on purpose, or fits the few
samples that it was shown. So a change that is made layer by layer is judged at the outputs, on samples that did not choose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.execution.agreement import energies
from fxcompress.execution.interpreter import Execution
from fxcompress.quantization.matrix_layers import MatrixLayer
from fxcompress.report.units import readable_decibels

Arguments = list[tuple[fx.Node, tuple[Any, ...]]]
"""Nodes, with what each reads."""


@dataclass
class Change:
    """What a layer reads as constants, before and after a pass has exchanged some of them."""

    layer: MatrixLayer
    before: Arguments
    after: Arguments = field(default_factory=list)

    @classmethod
    def begin(cls, layer: MatrixLayer) -> Change:
        """To be called before the pass changes `layer`."""
        return cls(layer, _arguments(layer))

    def make(self) -> None:
        _set(self.after)

    def undo(self) -> None:
        self.after = self.after or _arguments(self.layer)
        _set(self.before)


class OutputDifference:
    """How far the outputs of `quantized`, as it stands, are from those of `reference`, on some samples."""

    def __init__(self, quantized: fx.GraphModule, reference: fx.GraphModule, batches: Sequence[Leaves]):
        self.quantized, self.batches = quantized, batches
        self.wanted = [_outputs(reference, batch) for batch in batches]

    def __call__(self) -> float:
        """The energy of the difference over that of the output, added up over outputs."""
        signal, noise = [0.0] * len(self.wanted[0]), [0.0] * len(self.wanted[0])
        for wanted, batch in zip(self.wanted, self.batches):
            for position, pair in enumerate(zip(wanted, _outputs(self.quantized, batch), strict=True)):
                of_output, of_error = energies(*pair)
                signal[position] += of_output
                noise[position] += of_error
        return sum(error / max(energy, 1e-30) for energy, error in zip(signal, noise))


class Undoable(Protocol):
    """A change that is made, and can be undone and made again."""

    def make(self) -> None: ...

    def undo(self) -> None: ...


Kind = TypeVar("Kind", bound=Undoable)


def keep_what_helps(changes: Sequence[Kind], error: Callable[[], float]) -> list[Kind]:
    """Undo those of `changes`, all of them made, that do not make `error` smaller beside the others; returns the rest.

    They are tried together first, and by halves where they do not help together. So the error never grows, and where all is
    well two measurements tell it.
    """
    for change in changes:
        change.undo()
    least, waiting = error(), [list(changes)]
    kept: list[Kind] = []
    while waiting:
        group = waiting.pop()
        for change in group:
            change.make()
        found = error()
        if found < least:
            least, kept = found, [*kept, *group]
            continue
        for change in group:
            change.undo()
        if len(group) > 1:
            waiting += [group[len(group) // 2 :], group[: len(group) // 2]]
    return kept


def judged(
    changes: Sequence[Change],
    quantized: fx.GraphModule,
    reference: fx.GraphModule,
    batches: Sequence[Leaves],
    *,
    notes: list[str],
) -> list[Change]:
    """`keep_what_helps` on `batches`, with a note of what was undone and what the rest gained; without any, nothing is."""
    if not batches or not changes:
        notes.append("all changes are kept unseen: there are no samples that did not choose them")
        return list(changes)
    error = OutputDifference(quantized, reference, batches)
    after = error()
    kept = keep_what_helps(changes, error)
    undone = [change.layer.node.name for change in changes if change not in kept]
    count = sum(map(Batch.of(quantized.graph).count, batches))
    told = f"{len(kept)} of {len(changes)} layers bring the outputs of {count} other samples nearer"
    notes.append(f"{told}: {_decibels(after)} dB with all changes, {_decibels(error())} dB with these")
    if undone:
        notes.append(
            f"left as they were: {', '.join(undone[:5])}" + (f" and {len(undone) - 5} more" if len(undone) > 5 else "")
        )
    return kept


def _decibels(error: float) -> str:
    return readable_decibels(-10 * math.log10(error) if error > 0 else math.inf)


@torch.no_grad()
def _outputs(graph_module: fx.GraphModule, batch: Leaves) -> list[Tensor]:
    """The floating-point outputs of the graph as it stands, compiled or not."""
    execution, output = Execution(graph_module, batch), next(iter(reversed(graph_module.graph.nodes)))
    execution.advance(output)
    found = pytree.tree_leaves(fx.map_arg(output.args, execution.value))
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]


def _arguments(layer: MatrixLayer) -> Arguments:
    """What `layer` reads, and what the quantizers and masks of its constants read."""
    return [(node, node.args) for node in (layer.node, *_chains(layer.node))]


def _chains(node: fx.Node) -> Iterator[fx.Node]:
    for constant in node.all_input_nodes[1:]:
        while constant.op == "call_module":
            yield constant
            constant = constant.all_input_nodes[0]


def _set(arguments: Arguments) -> None:
    for node, args in arguments:
        node.args = args
