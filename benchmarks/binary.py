"""Latency in OpenVINO of a ResNet-18 with a binary body, against the same network in INT8 and in FP32.

    pip install -e ".[bench]"
    pip install --no-deps torchvision
    python -m benchmarks.binary                 # five minutes on two cores that do nothing else
    python -m benchmarks.binary --quick         # does everything run? the figures mean nothing

Prints a table with the bars and writes it to benchmarks/results/ as JSON and markdown, with the machine named; a quick run
writes to out/benchmarks/ instead. The weights are random: what a layer costs does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

import fxcompress
from benchmarks import models, openvino_runner, placement, scoreboard
from benchmarks.machine import describe_machine, warn_if_busy
from benchmarks.medians import median, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import Pass, passes

FLOAT, INT8, BINARY, BINARY_ONNX = "FP32", "INT8", "binary", "binary, ONNX"
FOLDED = (passes.FoldBatchNorm(), passes.CanonicalizeActivations())
ENDS = (passes.Quantize(), passes.Calibrate(samples=10))
BARS = {FLOAT: Bar("at least", 4.0), INT8: Bar("at least", 1.5)}
QUICK = {"loads": 2, "rounds": 5}
HERE = Path(__file__).parent

console = Console(stderr=True)


@dataclass(frozen=True)
class Subject:
    """A network, the shape of its input without the batch, and which of its convolutions are binarized."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    binarize: Pass


def _body() -> nn.Module:
    network = models.build("resnet18")
    return nn.Sequential(network.layer1, network.layer2, network.layer3, network.layer4)


SUBJECTS = {
    "resnet18": Subject(lambda: models.build("resnet18"), models.IMAGE_SHAPE, passes.Binarize()),
    "resnet18, its four stages": Subject(_body, (64, 56, 56), passes.Binarize(scopes=["*.conv1", "*.conv2"])),
}
"""The whole network, whose first, last and 1x1 layers stay in INT8, and the residual blocks alone."""


def build_files(subject: Subject, folder: Path) -> dict[str, Path]:
    """The file of each kind, by kind. All but one are OpenVINO IR for a batch of one."""
    torch.manual_seed(models.SEED)
    data = [torch.rand(10, *subject.shape)]
    folder.mkdir(parents=True, exist_ok=True)
    stages = {FLOAT: FOLDED, INT8: (*FOLDED, *ENDS), BINARY: (*FOLDED, subject.binarize, *ENDS)}
    compiled = {kind: fxcompress.compile(subject.build(), listed, data=data) for kind, listed in stages.items()}
    files = {kind: module.to_openvino(folder / f"{kind}.xml", batch_size=1) for kind, module in compiled.items()}
    files[BINARY_ONNX] = compiled[BINARY].to_onnx(folder / f"{BINARY}.onnx")
    return files


def figures(name: str, seconds: Mapping[str, np.ndarray]) -> list[Figure]:
    """Milliseconds of each file, and how many times as long as the binary one the others take."""
    found = [Figure.of(name, kind, median(taken).scaled(1e3), "ms") for kind, taken in seconds.items()]
    for kind, taken in seconds.items():
        if kind != BINARY:
            ratio = paired_ratio(taken, seconds[BINARY])
            found.append(Figure.of(name, f"{kind} / {BINARY}", ratio, "times", BARS.get(kind)))
    return found


def section(folder: Path, *, loads: int, rounds: int, report: Callable[[str], None] = lambda _: None) -> Section:
    """Build the files of every subject and measure them side by side."""
    result = Section(
        "A binary ResNet-18 in OpenVINO",
        f"Batch 1, INFERENCE_PRECISION_HINT=f32, latency hint, {openvino_runner.THREADS} threads. All files of a subject side "
        f"by side: {loads} x {rounds} rounds in turning order, compiled anew every {rounds}; ratios are medians over "
        "rounds, above 1 where the binary file is faster; 95% bootstrap intervals in brackets.",
    )
    for number, (name, subject) in enumerate(SUBJECTS.items()):
        report(f"{name}: files")
        files = build_files(subject, folder / str(number))
        layers = placement.execution_graph(files[BINARY], (1, *subject.shape))
        kernels = sum(layer.type == "BinaryConvolution" for layer in layers)
        result.notes.append(f"{name}: {kernels} convolutions of the binary file run on bits.")
        report(f"{name}: latency")
        sample = np.random.default_rng(models.SEED).random((1, *subject.shape), dtype=np.float32)
        taken = openvino_runner.latencies(files, sample, loads=loads, rounds=rounds)
        result.figures += figures(name, taken)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    options = _parse(arguments)
    machine = describe_machine()
    warn_if_busy(console.print)
    with tempfile.TemporaryDirectory() as folder:
        found = section(Path(folder), loads=options.loads, rounds=options.rounds, report=console.print)
    written = scoreboard.write([found], machine, options.output, "binary")
    console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    scoreboard.show([found], machine)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.binary", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: does everything run?")
    parser.add_argument("--loads", type=int, help="how often the files are compiled anew (6)")
    parser.add_argument("--rounds", type=int, help="after each load (40)")
    parser.add_argument("--output", type=Path, help="folder of the results")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else {"loads": 6, "rounds": 40}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.output = options.output or (HERE.parent / "out" / "benchmarks" if options.quick else HERE / "results")
    return options


if __name__ == "__main__":
    sys.exit(main())
