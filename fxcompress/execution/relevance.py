"""What layers read of the tokens that count: a padded one is computed like all others, and then left out of the answer.

Of short texts most tokens are padding, so that statistics with them in are of values that nobody reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain

from torch import Tensor, fx

from fxcompress.data.batch import Leaves
from fxcompress.data.samples import CalibrationSource, in_small_batches, samples_of
from fxcompress.execution.gradients import Differentiable, RandomSigns, output_gradients, samples_a_pass
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.precision import Arithmetic, Precision
from fxcompress.ir.dialect import resolve

_LINEAR = resolve("linear")


def reads_tokens(node: fx.Node) -> bool:
    """Whether `node` is a linear layer on samples of several rows each."""
    return node.target is _LINEAR and node.args[0].meta["val"].dim() >= 3


def relevant_inputs(
    graph_module: fx.GraphModule,
    source: CalibrationSource,
    layers: Collection[fx.Node],
    *,
    samples: int | None,
    enough: int,
    precision: Precision = "auto",
) -> Iterator[tuple[fx.Node, Tensor]]:
    """Each of the linear `layers` with the rows that it reads and the model's outputs depend on, batch after batch.

    The rows are float32, ``[rows, channels]``. An output depends on a row where its gradient with respect to what the layer
    makes of the row is not zero. One backward pass tells that for all outputs: of their sum with random signs. Where
    none of the outputs has a gradient, where an operation has no derivative, and in inference mode, all rows count.

    Args:
        graph_module: the float model.
        samples: of ``source.data``, at most; None for all.
        enough: a layer that has been shown so many rows is shown no more.

    Raises:
        InputError: there is no data, or a batch does not fit the model.
    """
    for _, found in _marked(graph_module, source, layers, samples, enough, precision):
        for node, rows, counts in found:
            yield node, chosen_rows(rows, counts).float()


def relevant_rows(
    graph_module: fx.GraphModule,
    source: CalibrationSource,
    layers: Collection[fx.Node],
    *,
    samples: int | None,
    enough: int,
    precision: Precision = "auto",
) -> Iterator[tuple[Leaves, dict[fx.Node, Tensor | None]]]:
    """As `relevant_inputs`, each batch with which rows of those that a layer reads count: bool, ``[rows]``, None for all."""
    for leaves, found in _marked(graph_module, source, layers, samples, enough, precision):
        yield leaves, {node: counts for node, _, counts in found}


def chosen_rows(x: Tensor, counts: Tensor | None) -> Tensor:
    """The rows, ``[rows, channels]``, of what a layer reads, which count."""
    rows = x.flatten(0, -2)
    return rows if counts is None else rows[counts]


_Marked = list[tuple[fx.Node, Tensor, Tensor | None]]
"""Layers, with what they read and which rows of that count."""


def _marked(
    graph_module: fx.GraphModule,
    source: CalibrationSource,
    layers: Collection[fx.Node],
    samples: int | None,
    enough: int,
    precision: Precision,
) -> Iterator[tuple[Leaves, _Marked]]:
    shown, wanting, seen, signs = dict.fromkeys(layers, 0), layers, 0, RandomSigns()
    pieces = samples_of(graph_module.graph, source, samples)
    first = next(pieces)
    arithmetic = Differentiable(choose_arithmetic(precision, graph_module, first))
    together = samples_a_pass(graph_module.graph, first)
    for leaves, count in in_small_batches(graph_module.graph, chain([first], pieces), together):
        found = list(_relevant(graph_module, wanting, leaves, signs, arithmetic))
        for node, rows, counts in found:
            shown[node] += rows[..., 0].numel() if counts is None else int(counts.sum())
        yield leaves, found
        seen += count
        source.progress(f"observing for {source.pass_name}", seen, samples)
        wanting = [node for node in wanting if shown[node] < enough]
        if not wanting:
            return


def _relevant(
    graph_module: fx.GraphModule, layers: Collection[fx.Node], leaves: Leaves, signs: RandomSigns, arithmetic: Arithmetic
) -> Iterator[tuple[fx.Node, Tensor, Tensor | None]]:
    read: dict[fx.Node, Tensor] = {}

    def keep(node: fx.Node, execution: Execution) -> None:
        read[node] = execution.value(node.args[0]).detach()

    for node, _, gradient in output_gradients(graph_module, layers, leaves, signs, arithmetic, keep):
        yield node, read[node], None if gradient is None else gradient.flatten(0, -2).any(-1)
