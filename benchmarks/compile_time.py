"""Seconds from a torch model to a quantized file, against NNCF on torch, a plain forward pass, and torch's exporter."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fxcompress
from benchmarks import models, peers
from benchmarks.medians import median, orders, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import passes

NETWORKS = ("resnet18", "mobilenet_v2", "resnet50")

AGAINST_NNCF = Bar("at least", 5.0)
CALIBRATION = Bar("at most", 1.2)
REST = Bar("at most", 1.5)

Seconds = dict[str, float]


def section(networks: Sequence[str], images: Tensor, folder: Path, *, repeats: int, report: Callable[[str], None]) -> Section:
    """Measure `networks` with `images` for calibration; the files are left in `folder`."""
    chunk = passes.Calibrate().chunk
    result = Section(
        "From model to file",
        f"{len(images)} calibration images of 224x224, the same list of batches of one image for both tools; {repeats} "
        "rounds in turning order, medians. What a first use compiles or imports is not counted. Calibration: against "
        f"the model's plain float32 forward over the same images, {chunk} at a time as the calibration takes them. The "
        "rest: against torch.onnx.export(dynamo=True) of the float model alone, with a free batch size as in our file.",
    )
    first_uses = warm_up(folder)
    uses = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first_uses.items())
    result.notes.append(f"First use in this process, on a network of two layers: {uses}.")
    for name in networks:
        report(f"{name}: model to file")
        result.figures += figures(name, measure(name, images, folder, repeats))
    return result


def figures(name: str, seconds: dict[str, np.ndarray]) -> list[Figure]:
    """What `measure` found, with the bars."""
    shown = ("fxcompress", "NNCF torch", "NNCF torch, batches", "calibration", "forward", "rest", "export")
    taken = [Figure.of(name, what, median(seconds[what]), "s") for what in shown]
    ratios = [
        ("NNCF torch", "fxcompress", "times", AGAINST_NNCF),
        ("NNCF torch, batches", "fxcompress", "times", None),
        ("calibration", "forward", "ratio", CALIBRATION),
        ("rest", "export", "ratio", REST),
    ]
    for above, below, unit, bar in ratios:
        taken.append(Figure.of(name, f"{above} / {below}", paired_ratio(seconds[above], seconds[below]), unit, bar))
    return taken


def measure(name: str, images: Tensor, folder: Path, repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each job on a fresh copy of the network `name`, (repeats,) by job; jobs take turns."""
    model = models.build(name)
    singles, batches = list(images.split(1)), list(images.split(passes.Calibrate().chunk))
    ours, theirs, plain = (peers.file_of(tool, name, folder) for tool in (peers.OURS, peers.NNCF_TORCH, peers.FLOAT))
    jobs: list[Callable[[nn.Module], Seconds]] = [
        lambda model: _fxcompress(model, singles, ours),
        lambda model: timed("NNCF torch", peers.nncf_torch, model, singles, theirs),
        lambda model: timed("NNCF torch, batches", peers.nncf_torch, model, batches, folder / "batches.xml"),
        lambda model: timed("forward", _forward, model, batches),
        lambda model: timed("export", peers.export_float, model, singles, plain),
    ]
    return take_turns(model, jobs, repeats)


def take_turns(model: nn.Module, jobs: Sequence[Callable[[nn.Module], Seconds]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds that `jobs` tell of, (repeats,) by name; each job gets a copy of `model` of its own."""
    rounds: list[Seconds] = []
    for order in orders(len(jobs), repeats):
        taken: Seconds = {}
        for position in order:
            fresh = copy.deepcopy(model)
            gc.collect()
            with peers.quiet():
                taken |= jobs[position](fresh)
        rounds.append(taken)
    return {what: np.array([taken[what] for taken in rounds]) for what in rounds[0]}


def warm_up(folder: Path) -> Seconds:
    """Put a tiny network through every job, so that none pays later for its imports or compiles an extension.

    Returns the seconds that it took: what a user waits for the first time.
    """
    data = [torch.randn(1, 3, 16, 16) for _ in range(2)]
    paths = {tool: peers.file_of(tool, "tiny", folder) for tool in (peers.OURS, peers.NNCF_TORCH, peers.FLOAT)}
    taken: Seconds = {}
    with peers.quiet():
        for tool, path in paths.items():
            taken |= timed(tool.name, tool.build, _Tiny().eval(), data, path)
    return {"fxcompress": taken["fxcompress"], "NNCF": taken["NNCF torch"], "torch's exporter": taken["FP32"]}


class _Tiny(nn.Module):
    """One layer of each kind. (NNCF does not take an `nn.Sequential`: it adds a child to the model.)"""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(self.conv(x)).relu().mean((2, 3)))


def _fxcompress(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Seconds:
    """The whole, of which calibration and all the rest, from the report's own row."""
    started = time.perf_counter()
    compiled = fxcompress.compile(model, example_inputs=(batches[0],), data=batches)
    compiled.to_onnx(path)
    total = time.perf_counter() - started
    calibration = sum(row.milliseconds for row in compiled.report.rows if row.name.startswith("Calibrate")) / 1e3
    return {"fxcompress": total, "calibration": calibration, "rest": total - calibration}


def _forward(model: nn.Module, batches: Sequence[Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(batch)


def timed(what: str, job: Callable, *arguments) -> Seconds:
    """The seconds of ``job(*arguments)``, under the name `what`."""
    started = time.perf_counter()
    job(*arguments)
    return {what: time.perf_counter() - started}
