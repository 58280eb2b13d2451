"""What capture costs beside torch's own export, by the size of the network.

    python -m benchmarks.capture_time [--blocks 40 640 1280]

A chain of so many convolutions, each with a batch norm and a ReLU, on a free batch. Capture is all that happens before the
first pass: the trace, the dialect, what training changes, the comparison with the model, and whether a file can be written of
it. CPU seconds of this process, in turns. Prints a table and writes it to benchmarks/results/ as JSON and markdown.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fxcompress
from benchmarks import scoreboard
from benchmarks.machine import describe_machine
from benchmarks.medians import median, orders, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section

RATIO = Bar("at most", 1.3)


def chain(blocks: int) -> nn.Module:
    """So many blocks of 8 channels."""
    block = lambda: [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]  # noqa: E731
    return nn.Sequential(*(nn.Sequential(*block()) for _ in range(blocks))).eval()


def figures(blocks: int, rounds: int) -> list[Figure]:
    """Both, in turns."""
    x, model, batch = torch.randn(2, 8, 8, 8), chain(blocks), torch.export.Dim("batch")
    jobs: list[Callable[[], object]] = [
        lambda: fxcompress.compile(model, [], example_inputs=x),
        lambda: torch.export.export(model, (x,), dynamic_shapes=({0: batch},)),
    ]
    taken = np.empty((2, rounds))
    for row, order in enumerate(orders(2, rounds)):
        for position in order:
            gc.collect()
            started = time.process_time()
            jobs[position]()
            taken[position, row] = time.process_time() - started
    name = f"{blocks} blocks"
    found = [Figure.of(name, what, median(seconds), "s") for what, seconds in zip(("fxcompress", "torch.export"), taken)]
    return [*found, Figure.of(name, "fxcompress / torch.export", paired_ratio(*taken), "ratio", RATIO)]


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[40, 640, 1280])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    figures(2, 1)  # what the first call of each imports
    told = f"CPU seconds; {options.rounds} rounds in turning order, medians. `python -m benchmarks.capture_time`"
    section = Section("Capture", told)
    for blocks in options.blocks:
        section.figures += figures(blocks, options.rounds)
    scoreboard.show([section], machine)
    scoreboard.write([section], machine, options.output, "capture_time")


if __name__ == "__main__":
    main()
