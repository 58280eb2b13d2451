"""What some places of a float model see of the data."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx

from fxcompress.data.batch import Leaves
from fxcompress.data.samples import CalibrationSource, chunks
from fxcompress.errors import CalibrationError, describe
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.precision import Arithmetic, Precision


def observe(
    graph_module: fx.GraphModule,
    source: CalibrationSource,
    places: Collection[fx.Node],
    *,
    samples: int | None,
    without: range = range(0),
    precision: Precision = "auto",
    chunk: int = 10,
) -> Iterator[tuple[fx.Node, Tensor]]:
    """Each of `places` with its value, batch after batch; no batch runs further than the last of them.

    Args:
        samples: of ``source.data``, at most; None for all.
        without: which of them are left out.
        chunk: samples a batch, where the model's batch size is free.

    Raises:
        InputError: there is no data, or a batch does not fit the model.
    """
    seen, arithmetic = 0, None
    with torch.no_grad():
        for leaves, count in chunks(graph_module.graph, source, samples, chunk, without):
            arithmetic = arithmetic or choose_arithmetic(precision, graph_module, leaves)
            yield from values_at(graph_module, places, leaves, arithmetic)
            seen += count
            source.progress(f"observing for {source.pass_name}", seen, samples)


def values_at(
    graph_module: fx.GraphModule, places: Collection[fx.Node], leaves: Leaves, arithmetic: Arithmetic
) -> Iterator[tuple[fx.Node, Tensor]]:
    """Each of `places` with its value for the samples of one batch, which runs no further than the last of them.

    One that gets no values, as an expert to which no token goes, is left out.
    """
    execution = Execution(graph_module, leaves, arithmetic)
    for node in [node for node in graph_module.graph.nodes if node in places]:
        execution.advance(node)
        execution.run(node)
        if (value := execution.value(node)).numel():
            yield node, value


def check_finite(place: fx.Node, widths: Tensor) -> None:
    """Raise CalibrationError where one of `widths`, those of the values of `place`, is NaN or infinite."""
    if not widths.isfinite().all():
        raise CalibrationError(f"{describe(place)} is NaN or infinite for some of the data; look for an overflow there")
