"""Latency in OpenVINO of networks with fewer filters, in INT8, against the same networks with all of them.

    pip install -e ".[bench]"
    pip install --no-deps torchvision
    python -m benchmarks.pruned

Prints a table with the bars and writes it to benchmarks/results/ as JSON and markdown, with the machine named. The weights
are random: what a layer costs does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import fxcompress
from benchmarks import models, openvino_runner, scoreboard
from benchmarks.machine import describe_machine, warn_if_busy
from benchmarks.medians import Estimate, median, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import passes
from fxcompress.ir.cost import cost

NETWORKS = ("resnet18", "mobilenet_v2")
SHARES = (0.3, 0.5)
MULTIPLES = (8, 32)
ALL = "all filters"

console = Console(stderr=True)


def build_files(name: str, folder: Path) -> dict[str, tuple[Path, float]]:
    """For each share of multiply-adds to remove, and multiple of filters to keep, the INT8 file and the share removed."""
    data = [torch.rand(10, *models.IMAGE_SHAPE, generator=torch.Generator().manual_seed(models.SEED))]
    finish = (passes.Quantize(), passes.Calibrate(samples=10))
    whole = cost(fxcompress.compile(models.build(name), [passes.FoldBatchNorm()], data=data)).multiply_adds
    files = {}
    for share, multiple in ((0.0, 1), *itertools.product(SHARES, MULTIPLES)):
        fewer = [passes.PruneFilters(flops=share, multiple=multiple), passes.RemoveFilters()] if share else []
        stack = [passes.FoldBatchNorm(), passes.CanonicalizeActivations(), *fewer, *finish]
        compiled = fxcompress.compile(models.build(name), stack, data=data)
        label = f"{share:.0%}, filters in {multiple}s" if share else ALL
        files[label] = compiled.to_onnx(folder / f"{name}-{share}-{multiple}.onnx"), 1 - cost(compiled).multiply_adds / whole
    return files


def section(networks: Sequence[str], folder: Path, *, loads: int, rounds: int, report: Callable[[str], None]) -> Section:
    """Build the files of every network and measure them side by side."""
    result = Section(
        "Networks with fewer filters, in INT8",
        f"Batch 1, 224x224, latency hint, {openvino_runner.THREADS} threads; {loads} x {rounds} rounds in turning order. "
        "Removed: of the multiply-adds, at least the share asked for. Filters in 32s: each layer keeps a multiple of so many. "
        "Saved: of the latency of the INT8 file with all filters; the bar is half of what was removed.",
    )
    for name in networks:
        report(name)
        files = build_files(name, folder)
        sample = np.random.default_rng(models.SEED).random((1, *models.IMAGE_SHAPE), dtype=np.float32)
        taken = openvino_runner.latencies(
            {label: path for label, (path, _) in files.items()}, sample, loads=loads, rounds=rounds
        )
        for label, (_, removed) in files.items():
            row = f"{name}, {label}"
            result.figures.append(Figure.of(row, "latency", median(taken[label]).scaled(1e3), "ms"))
            if label != ALL:
                ratio = paired_ratio(taken[label], taken[ALL])
                saved = Estimate(*(100 * (1 - value) for value in (ratio.value, ratio.high, ratio.low)))
                result.figures.append(Figure(row, "removed", 100 * removed, "%"))
                result.figures.append(Figure.of(row, "saved", saved, "%", Bar("at least", 50 * removed)))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruned", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--loads", type=int, default=6, help="how often the files are compiled anew")
    parser.add_argument("--rounds", type=int, default=40, help="after each load")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    warn_if_busy(console.print)
    with tempfile.TemporaryDirectory() as folder:
        found = section(options.networks, Path(folder), loads=options.loads, rounds=options.rounds, report=console.print)
    scoreboard.write([found], machine, options.output, "pruned")
    scoreboard.show([found], machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
