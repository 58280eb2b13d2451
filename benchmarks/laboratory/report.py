"""The laboratory's table and plots, from its finished rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.laboratory.ledger import Row
from benchmarks.laboratory.methods import CONTROL, FLOAT, METHODS
from benchmarks.medians import Estimate, median, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress.storage.atomic import write_text
from fxcompress.views.bars import Bar as Length
from fxcompress.views.bars import bar_chart

FILE_BAR = Bar("at most", 0.05)
"""Percentage points between the trained model and its file in OpenVINO."""

KINDS = {method.name: method.kind for method in METHODS}
MAX_DROPS = {method.name: method.max_drop for method in METHODS}


def section(network: str, rows: Sequence[Row], seconds: Mapping[str, np.ndarray], method: str) -> Section:
    """The table of `network`; `seconds` are latencies by method, and `method` says how it all was measured."""
    result = Section(f"Fashion-MNIST, {network} network", method)
    for name in methods_of(rows):
        result.figures += _figures(name, rows, seconds)
    result.notes += _trainings(rows)
    missing = [method.name for method in METHODS if network in method.networks and method.name not in methods_of(rows)]
    if missing:
        result.notes.append(f"Not trained: {'; '.join(missing)}.")
    return result


def methods_of(rows: Iterable[Row]) -> list[str]:
    """The methods that there are rows of, in the order of `METHODS`."""
    there = {row.method for row in rows}
    return [method.name for method in METHODS if method.name in there]


def drops(name: str, rows: Iterable[Row]) -> Estimate:
    """Percentage points below the float model of the same seed: the mean over seeds, the least and the most."""
    rows = list(rows)
    reference = {row.seed: row.accuracy for row in rows if row.method == FLOAT}
    return spread([reference[row.seed] - row.accuracy for row in rows if row.method == name])


def file_error(row: Row) -> float:
    """Percentage points between the trained model and its file in OpenVINO; whole images, so that rounding does not count."""
    return round(abs(row.openvino_accuracy - row.accuracy), 6)


def spread(values: Sequence[float]) -> Estimate:
    """The mean, the least and the most."""
    return Estimate(float(np.mean(values)), min(values), max(values))


def _figures(name: str, rows: Sequence[Row], seconds: Mapping[str, np.ndarray]) -> list[Figure]:
    """The line of the method `name`."""
    of_name = [row for row in rows if row.method == name]

    def figure(quantity: str, estimate: Estimate, unit: str, bar: Bar | None = None) -> Figure:
        if len(of_name) > 1:
            return Figure.of(name, quantity, estimate, unit, bar)
        return Figure(name, quantity, estimate.value, unit, bar=bar)

    allowed = MAX_DROPS[name]
    first = of_name[0]
    found = [figure("accuracy", spread([row.accuracy for row in of_name]), "percent")]
    found.append(figure("drop", drops(name, rows), "points", None if allowed is None else Bar("at most", allowed)))
    found += [
        figure("in OpenVINO", spread([row.openvino_accuracy for row in of_name]), "percent"),
        Figure(name, "file off by", max(map(file_error, of_name)), "points", bar=FILE_BAR),
        Figure(name, "weight bits", first.weight_bits, "bits"),
        Figure(name, "zeros", 100 * first.zeros, "%"),
        Figure(name, "multiply-adds", first.multiply_adds / 1e6, "M"),
        Figure(name, "file", first.file_bytes / 1e3, "kB"),
        Figure(name, "packed", first.packed_bytes / 1e3, "kB"),
    ]
    if name in seconds:
        found.append(Figure.of(name, "latency", median(seconds[name]).scaled(1e6), "us"))
        if FLOAT in seconds:
            found.append(Figure.of(name, "speed-up", paired_ratio(seconds[FLOAT], seconds[name]), "times"))
    return found


def _trainings(rows: Iterable[Row]) -> list[str]:
    """How long and how often what was trained, a sentence for all that were trained alike."""
    rows = list(rows)
    alike: dict[str, list[str]] = {}
    for name in methods_of(rows):
        of_name = [row for row in rows if row.method == name]
        seeds = ", ".join(str(row.seed) for row in sorted(of_name, key=lambda row: row.seed))
        how = f"{of_name[0].epochs} epochs of {of_name[0].images} images, seed{'s' * (len(of_name) > 1)} {seeds}"
        alike.setdefault(how, []).append(name)
    return [f"{how}: {'; '.join(names)}." for how, names in alike.items()]


def plots(network: str, rows: Sequence[Row], seconds: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """Bar charts of what is lost, of latency and of the files' size, as SVG files in `folder`; returns their paths."""
    names = methods_of(rows)
    lost = [Length(n, 100 * d, f"{d:+.2f}", KINDS[n]) for n in names if n != FLOAT for d in [drops(n, rows).value]]
    taken = {name: median(seconds[name]).value * 1e6 for name in names if name in seconds and name != CONTROL}
    times = [Length(name, value, f"{value:.0f} us", KINDS[name]) for name, value in taken.items()]
    sizes = {row.method: row.packed_bytes / 1e3 for row in reversed(rows)}
    bytes_ = [Length(name, sizes[name], f"{sizes[name]:.0f} kB", KINDS[name]) for name in names if name != CONTROL]
    charts = {
        "drop": bar_chart(f"{network}: accuracy lost against FP32", "hundredths of a percentage point", lost),
        "latency": bar_chart(f"{network}: latency in OpenVINO, batch 1", "microseconds", times),
        "size": bar_chart(f"{network}: file, compressed with zlib", "kB", bytes_),
    }
    return [write_text(folder / f"laboratory_{network}_{what}.svg", chart) for what, chart in charts.items()]
