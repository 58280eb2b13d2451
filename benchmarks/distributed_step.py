"""What compression costs where two processes train together: steps under DistributedDataParallel, and bytes of calibration.

    pip install -e ".[bench]"
    pip install --no-deps torchvision
    python -m benchmarks.distributed_step     # a minute

Two processes of one thread each over gloo take every step at the same time, alone and under DDP, in turning order. How much
more DDP adds to a compressed step than to a float step is the ratio of the two ratios. Prints a table with the bars and writes
it to benchmarks/results/ as JSON and markdown, with the machine named.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import fxcompress
from benchmarks import models, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.medians import median, paired_ratio
from benchmarks.qat_step import Job, measure, step_of
from benchmarks.scoreboard import Bar, Figure, Section

NETWORKS = ("resnet18", "mobilenet_v2")
BATCH = (16, 3, 64, 64)
PROCESSES = 2
MORE = Bar("at most", 1.05)
SAMPLES = (32, 64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, args=(folder, options.networks, options.rounds), nprocs=PROCESSES)
        found = torch.load(Path(folder) / "0.pt", weights_only=False)
    sections = [section(found["steps"], options.rounds), calibration(found["bytes"])]
    scoreboard.show(sections, machine)
    scoreboard.write(sections, machine, options.output, "distributed_step")
    return 0


def section(steps: dict[str, dict[str, np.ndarray]], rounds: int) -> Section:
    """Steps of each network in the first process, which waits for the other at the end of each."""
    shape = "x".join(map(str, BATCH[1:]))
    result = Section(
        "A training step of two processes",
        f"Forward, backward and SGD on {BATCH[0]} images of {shape} a process, one thread each, gloo; {rounds} rounds in "
        "turning order, medians; ratios are of steps of a round.",
    )
    for name, taken in steps.items():
        result.figures += [Figure.of(name, what, median(seconds * 1e3), "ms") for what, seconds in taken.items()]
        alone, together = (taken[f"fxcompress, {how}"] / taken[f"FP32, {how}"] for how in ("alone", "DDP"))
        result.figures.append(Figure.of(name, "fxcompress / FP32, alone", median(alone), "ratio"))
        result.figures.append(Figure.of(name, "fxcompress / FP32, DDP", median(together), "ratio"))
        result.figures.append(Figure.of(name, "DDP / alone", paired_ratio(together, alone), "ratio", MORE))
    return result


def calibration(sent: dict[int, int]) -> Section:
    """What a process sends to the other for calibration."""
    result = Section(
        "Bytes of calibration",
        "What one of two processes sends for its share of so many images of 3x64x64; every process calibrates on all of them.",
    )
    for samples, count in sent.items():
        result.figures.append(Figure.of(f"{samples} images", "sent", median(np.asarray([count / 1e3])), "kB"))
    return result


def _work(rank: int, folder: str, networks: Sequence[str], rounds: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    steps = {name: _steps(models.build(name), rounds) for name in networks}
    sent = {samples: _sent(samples) for samples in SAMPLES}
    if rank == 0:
        torch.save({"steps": steps, "bytes": sent}, Path(folder) / "0.pt")
    distributed.destroy_process_group()


def _steps(model: nn.Module, rounds: int) -> dict[str, np.ndarray]:
    made = {
        "FP32": copy.deepcopy(model),
        "fxcompress": fxcompress.compile(model, fxcompress.defaults.training(), data=[torch.randn(BATCH)], verify=False),
    }
    jobs = {f"{name}, alone": step_of(one, BATCH) for name, one in made.items()}
    jobs |= {f"{name}, DDP": step_of(DistributedDataParallel(copy.deepcopy(one)), BATCH) for name, one in made.items()}
    return measure({name: _together(job) for name, job in jobs.items()}, rounds, warm_up=1)


def _together(job: Job) -> Job:
    """`job`, which ends when that of the other process does; so the next one of both begins at the same time."""
    return lambda: (job(), distributed.barrier())


def _sent(samples: int) -> int:
    """The bytes of this process's share, counted where it leaves the process."""
    share = [torch.randn(BATCH) for _ in range(samples // PROCESSES // BATCH[0])]
    counted: list[int] = []
    own = distributed.all_gather_object

    def gather(found: list[object], one: object, group: object = None) -> None:
        counted.append(len(pickle.dumps(one)))
        own(found, one, group)

    distributed.all_gather_object = gather
    try:
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        fxcompress.compile(network, data=fxcompress.AllRanks(share), verify=False)
    finally:
        distributed.all_gather_object = own
    return sum(counted)


if __name__ == "__main__":
    sys.exit(main())
