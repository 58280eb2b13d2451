"""What training with simulated quantization costs: a step against the float step, and the quantizer against a copy.

    pip install -e ".[bench]"
    pip install --no-deps torchvision
    OMP_WAIT_POLICY=passive python -m benchmarks.qat_step           # a few minutes
    python -m benchmarks.qat_step --threads 1 --networks resnet18   # on a machine that does other things as well

A step is a forward and a backward pass and plain SGD, on random images; what is compared takes turns in one process. The
wait policy keeps threads from spinning where others want the cores. Prints tables with the bars and writes them to
benchmarks/results/ as JSON and markdown, with the machine named.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

import fxcompress
from benchmarks import models, peers, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.medians import median, orders, paired_ratio
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import passes
from fxcompress.quantizers import native
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.trainable import TrainableQuantizer

NETWORKS = ("resnet18", "mobilenet_v2")
BATCH = (32, 3, 64, 64)
STEP = {"resnet18": Bar("at most", 1.15), "mobilenet_v2": Bar("at most", 1.2)}
COPY = Bar("at most", 2.5)

Job = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    machine = describe_machine()
    sections = [steps(options.networks, options.rounds, options.threads), copies(options.rounds * 10, options.threads)]
    scoreboard.show(sections, machine)
    scoreboard.write(sections, machine, options.output, "qat_step")
    return 0


def steps(networks: Sequence[str], rounds: int, threads: int) -> Section:
    """Steps of each network, as it is and as each tool prepares it."""
    shape = "x".join(map(str, BATCH[1:]))
    section = Section(
        "A training step",
        f"Forward, backward and SGD on {BATCH[0]} images of {shape}, {threads} threads; {rounds} rounds in turning order, "
        "medians; the ratio is of the two steps of a round.",
    )
    for name in networks:
        jobs = {tool: step_of(prepare(models.build(name))) for tool, prepare in TOOLS.items()}
        taken = measure(jobs, rounds, warm_up=2)
        for tool, seconds in taken.items():
            section.figures.append(Figure.of(name, tool, median(seconds * 1e3), "ms"))
        for tool in list(taken)[1:]:
            bar = STEP[name] if tool.startswith("fxcompress") else None
            section.figures.append(Figure.of(name, f"{tool} / FP32", paired_ratio(taken[tool], taken["FP32"]), "ratio", bar))
    return section


def copies(rounds: int, threads: int) -> Section:
    """A quantizer, forward and backward, against a copy of the same tensor and of its gradient."""
    section = Section(
        "A quantizer against a copy",
        f"Forward and backward of one trained quantizer, against a clone of its input and one of the gradient; {threads} "
        f"threads; {rounds} rounds in turning order, medians.",
    )
    weight = QuantizationSpec(signed=True, narrow=True, channel_axis=0)
    for name, x, spec in (
        ("activation 32x96x32x32", torch.randn(32, 96, 32, 32).relu(), QuantizationSpec(symmetric=False)),
        ("weight 512x512x3x3", torch.randn(512, 512, 3, 3), weight),
    ):
        for kernel in ("compiled", "torch") if native.load() else ("torch",):
            taken = measure(_quantizer_and_copy(x, spec, kernel), rounds, warm_up=3)
            ratio = paired_ratio(taken["quantizer"], taken["copy"])
            section.figures.append(Figure.of(name, kernel, ratio, "ratio", COPY if kernel == "compiled" else None))
    return section


def _quantizer_and_copy(x: Tensor, spec: QuantizationSpec, kernel: str) -> dict[str, Job]:
    start = Quantizer(spec, x.shape)
    rows = x.flatten(1) if start.scale.dim() else x.reshape(1, -1)
    start.set_range(*(bound.view(start.scale.shape) * 0.9 for bound in (rows.amin(1), rows.amax(1))))
    quantizer, gradient = TrainableQuantizer(start), torch.randn_like(x)
    source = x.clone().requires_grad_()

    def quantize() -> None:
        loaded, native.loaded = native.loaded, native.load() if kernel == "compiled" else None
        try:
            torch.autograd.grad(quantizer(source), [source, *quantizer.parameters()], gradient)
        finally:
            native.loaded = loaded

    return {"copy": lambda: (x.clone(), gradient.clone()), "quantizer": quantize}


def measure(jobs: dict[str, Job], rounds: int, warm_up: int) -> dict[str, np.ndarray]:
    """Seconds of each job, ``[rounds]`` by name; jobs take turns."""
    for job in jobs.values():
        for _ in range(warm_up):
            job()
    names = list(jobs)
    taken = {name: np.empty(rounds) for name in names}
    gc.collect()
    for row, order in enumerate(orders(len(names), rounds)):
        for position in order:
            started = time.perf_counter()
            jobs[names[position]]()
            taken[names[position]][row] = time.perf_counter() - started
    return taken


def step_of(model: nn.Module, batch: Sequence[int] = BATCH) -> Job:
    """A step of `model`, which trains, on images of the sizes `batch`."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    images, labels = torch.randn(*batch), torch.randint(1000, batch[:1])

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _fxcompress(model: nn.Module) -> nn.Module:
    return fxcompress.compile(model, fxcompress.defaults.training(), data=[torch.randn(BATCH)], verify=False)


def _fixed_ranges(model: nn.Module) -> nn.Module:
    """Ranges that calibration found, which training leaves as they are."""
    return fxcompress.compile(model, [passes.Quantize(), passes.Calibrate()], data=[torch.randn(BATCH)], verify=False)


def _nncf(model: nn.Module) -> nn.Module:
    nncf = need("nncf")
    with peers.quiet():
        return nncf.quantize(model.eval(), nncf.Dataset([torch.randn(BATCH)]), subset_size=1)


def _torch_ao(model: nn.Module) -> nn.Module:
    """Eager-mode operators, observers and fake quantizers of torch.ao, with its configuration for training on x86."""
    quantization = need("torch.ao.quantization")
    prepare = need("torch.ao.quantization.quantize_fx").prepare_qat_fx
    with peers.quiet():
        mapping = quantization.get_default_qat_qconfig_mapping("x86")
        return prepare(model.train(), mapping, (torch.randn(BATCH),))


TOOLS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "FP32": copy.deepcopy,
    "fxcompress": _fxcompress,
    "fxcompress, fixed ranges": _fixed_ranges,
    "NNCF": _nncf,
    "torch.ao": _torch_ao,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qat_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=12, help="of steps; ten times as many of copies")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    Console(stderr=True).print("Timings on a machine that does other things mean little.", style="dim")
    sys.exit(main())
