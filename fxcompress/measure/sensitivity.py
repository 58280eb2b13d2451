"""The sensitivity report: how many decibels each quantized place of a model costs by itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from rich.box import MARKDOWN, SIMPLE_HEAD, Box
from rich.table import Table
from torch import fx

from fxcompress.data.inputs import example_inputs, peek
from fxcompress.data.samples import in_small_batches, read_samples
from fxcompress.errors import InputError, source_line, warn_user
from fxcompress.options import check_arguments
from fxcompress.pattern.scopes import operation
from fxcompress.quantization.noise import Place, layers_and_activations, measure_noise
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.report.tables import Breakable, printed
from fxcompress.report.units import readable_decibels
from fxcompress.storage.atomic import as_file, check_writable, write_text
from fxcompress.targets import Target, find_target
from fxcompress.views.bars import Bar, bar_chart

CHUNK = 4
"""Samples a forward pass: larger ones are hardly faster, and memory holds every activation of a chunk twice."""


@dataclass(frozen=True)
class Sensitivity:
    """One place of the model.

    Attributes:
        place: the name of the operation, or of the quantizer call.
        kind: a ``"layer"`` with its weight and what it reads, or one ``"activation"`` for all that read it.
        quantized: the operation and the grids, as ``"conv2d: int8 weight, uint8 data"``.
        decibels: SQNR of the outputs where this place alone is quantized; infinite where it loses nothing.
        source: the user's own source line.
    """

    place: str
    kind: Literal["layer", "activation"]
    quantized: str
    decibels: float
    source: str


@dataclass(frozen=True)
class SensitivityReport:
    """What each place costs, worst first; print it for a table.

    Attributes:
        rows: one a place.
        decibels: SQNR of the outputs with everything quantized.
        samples: how many were run.
    """

    rows: tuple[Sensitivity, ...]
    decibels: float
    samples: int

    def table(self, box: Box = SIMPLE_HEAD) -> Table:
        table = Table(box=box, pad_edge=False, caption=None if box is MARKDOWN else self.summary, caption_justify="left")
        table.add_column("place")
        table.add_column("kind")
        table.add_column("quantized")
        table.add_column("dB", justify="right")
        for row in self.rows:
            table.add_row(Breakable(row.place), row.kind, row.quantized, readable_decibels(row.decibels))
        return table

    @property
    def summary(self) -> str:
        together = readable_decibels(self.decibels)
        return f"SQNR of the outputs in dB with one place quantized, over {self.samples} samples; all together: {together}"

    def __str__(self) -> str:
        return printed(self.table())

    def markdown(self) -> str:
        """The table in markdown."""
        return f"{self.summary}\n\n{printed(self.table(MARKDOWN), 1000).strip()}\n"

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Write a bar chart, a bar a place, worst first, to the SVG file at `path`.

        Raises:
            InputError: `path` does not end in ``.svg`` or cannot be written.
        """
        return write_text(_with_suffix(path, (".svg",)), self.svg())

    def svg(self) -> str:
        """The bar chart."""
        lengths = [None if row.decibels == math.inf else row.decibels for row in self.rows]
        bars = [Bar(r.place, length, readable_decibels(r.decibels), r.kind) for r, length in zip(self.rows, lengths)]
        return bar_chart(self.summary, "dB", bars)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the table to a ``.md`` file, or the bar chart to a ``.svg`` file.

        Raises:
            InputError: `path` ends otherwise or cannot be written.
        """
        target = check_report_path(path)
        return self.plot(target) if target.suffix == ".svg" else write_text(target, self.markdown())


def check_report_path(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is known that a report can be written there.

    Raises:
        InputError: it ends neither in ``.md`` nor in ``.svg``, or cannot be written.
    """
    return check_writable(_with_suffix(path, (".md", ".svg")))


@check_arguments("samples", "chunk", "progress")
def sensitivity(
    model: fx.GraphModule,
    data: Iterable[Any],
    *,
    samples: Annotated[int, Ge(1)] = 32,
    chunk: Annotated[int, Ge(1)] = CHUNK,
    target: str | Target | None = None,
    progress: Callable[[str, int, int | None], None] = lambda description, done, total: None,
) -> SensitivityReport:
    """Measure each quantized place of `model` by itself: SQNR at the outputs with all other quantizers passed by.

    A place is a layer (an operation, with the quantizers of its weight and of what it reads, for it alone), or an activation
    quantizer (for all its readers). The float values of a chunk are computed once and kept; for each place only what is
    downstream of it runs again. So memory holds twice the activations of `chunk` samples, and the time grows with the number
    of places times half the network.

    Args:
        model: what `fxcompress.compile` returns, calibrated; or a graph module with quantizers.
        data: any iterable of batches, as `compile` takes it.
        samples: at most so many.
        chunk: samples a forward pass, where the model's batch size is free.
        target: that the quantizers were placed for; None for the compiled model's own, else OpenVINO.
        progress: called as ``progress(description, done, total)``.

    Raises:
        InputError: the model, the data or a number cannot be used.
        PlanError: a quantizer has no range yet.
    """
    _check(model)
    compilation = getattr(model, "compilation", None)
    first, data = peek(data)
    example = compilation.example if compilation else example_inputs(model, data=[first])
    chosen = find_target(target or (compilation.target if compilation else "openvino"))
    batches = in_small_batches(model.graph, read_samples(data, example, model.graph, samples, _warn), chunk)
    reference = compilation.before_quantizers(model) if compilation else None
    noise = measure_noise(model, layers_and_activations(model, chosen), batches, progress, samples, reference)
    rows = [_row(model, place) for place in noise.places]
    rows.sort(key=lambda row: row.decibels)
    return SensitivityReport(tuple(rows), noise.together.decibels, noise.samples)


def _warn(text: str) -> None:
    warn_user(text, UserWarning)


def _check(model: Any) -> None:
    if not isinstance(model, fx.GraphModule):
        parts = getattr(model, "parts", None)
        remedy = (
            "it was compiled in parts: measure one of its `parts`, on what that part is given" if parts else "compile it first"
        )
        raise InputError(f"sensitivity is measured on a compiled model, not on a {type(model).__name__}; {remedy}")
    if not quantizer_calls(model):
        raise InputError("the model holds no quantizer; list Quantize() and Calibrate() among its passes")


def _row(model: fx.GraphModule, place: Place) -> Sensitivity:
    calls = quantizer_calls(model)
    if place.layer is None:
        kind, told = "activation", _grids([place.node], calls)
    else:
        read = [("weight", place.layer.weights), ("data", place.layer.activations)]
        grids = ", ".join(f"{_grids(nodes, calls)} {what}" for what, nodes in read if nodes)
        kind, told = "layer", f"{operation(place.node).removeprefix('op:')}: {grids}"
    return Sensitivity(place.node.name, kind, told, place.decibels, source_line(place.node))  # type: ignore[arg-type]


def _grids(nodes: Iterable[fx.Node], calls: dict[fx.Node, Quantizer]) -> str:
    return " and ".join(dict.fromkeys(calls[node].number_type for node in nodes))


def _with_suffix(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    if as_file(path).suffix not in suffixes:
        raise InputError(f"cannot write {path}: its name must end in {' or '.join(suffixes)}")
    return as_file(path)
