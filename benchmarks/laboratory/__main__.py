"""Every method of compression with fine-tuning, and stacks of them, on Fashion-MNIST: one command, from training to the table.

    pip install -e ".[bench]"
    apt install dataset-fashion-mnist              # 60,000 + 10,000 images of 28x28; or --data FOLDER with its four files
    python -m benchmarks.laboratory                # about two hours on two cores that do nothing else
    python -m benchmarks.laboratory --quick        # ten minutes: does everything run? the accuracies mean little
    python -m benchmarks.laboratory --networks residual --only int8 w4a8 --seeds 1

Every epoch leaves a checkpoint and every finished model a row behind, in out/laboratory/, so that the same command goes on
after an interruption; --fresh starts anew. At the end the emitted files are timed side by side in OpenVINO, and the table and
the plots are written to benchmarks/results/, with the machine named; a quick run writes them to out/benchmarks/.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import openvino_runner, scoreboard
from benchmarks.laboratory import fashion, report
from benchmarks.laboratory.experiment import Experiment, Run, runs
from benchmarks.laboratory.ledger import Ledger
from benchmarks.laboratory.methods import METHODS, find_methods
from benchmarks.laboratory.networks import NETWORKS
from benchmarks.laboratory.progress import shown
from benchmarks.machine import describe_machine
from fxcompress.errors import InputError

ROOT = Path(__file__).parents[2]
QUICK = {"epochs": 2, "images": 12_000, "seeds": 1}
LATENCY = {"loads": 6, "rounds": 60, "repeats": 5}
THREADS = 1
"""Of an inference: layers as small as these gain nothing from a second one."""

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, emit and measure what is not there yet, then write table and plots; returns the exit status."""
    options = _parse(arguments)
    machine = describe_machine()
    torch.set_num_threads(options.threads)
    data = fashion.load(options.data).shortened(options.images)
    settings = {"images": len(data.train_labels), "epochs at most": options.epochs}
    ledger = Ledger(options.folder / "rows.json", settings, fresh=options.fresh)
    experiment = Experiment(data, options.folder, ledger)
    if options.fresh:
        experiment.forget()
    wanted = runs(options.networks, options.only, options.seeds, options.epochs)
    failed = False if options.report else _train(experiment, wanted)
    sections = [_section(experiment, network, options.output) for network in options.networks if experiment.rows(network)]
    if sections:
        written = scoreboard.write(sections, machine, options.output, "laboratory")
        scoreboard.show(sections, machine)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    return 1 if failed else 0


def _train(experiment: Experiment, wanted: Sequence[Run]) -> bool:
    """Finish every run; whether one of them failed. The others go on."""
    failed = False
    with shown(console, len(wanted)) as progress:
        for run in wanted:
            progress.start(str(run))
            try:
                row = experiment.finish(run, progress.step)
            except Exception:
                traceback.print_exc()
                failed = True
            else:
                progress.done(f"{run}: {row.accuracy:.2f}%, in OpenVINO {row.openvino_accuracy:.2f}%")
    return failed


def _section(experiment: Experiment, network: str, output: Path) -> scoreboard.Section:
    """The table of `network`, and its plots in `output`."""
    rows = experiment.rows(network)
    first = {row.method: experiment.folder / row.file for row in reversed(rows)}
    sample = experiment.data.test_images[:1].numpy()
    seconds: dict[str, np.ndarray] = openvino_runner.latencies(first, sample, threads=THREADS, **LATENCY)
    written = report.plots(network, rows, seconds, output)
    console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    return report.section(network, rows, seconds, METHOD)


METHOD = (
    "AdamW; the last epoch counts, none is chosen by its accuracy. Drop: percentage points below the float model of the same "
    "seed, which the fine-tuning starts from; figures of several seeds are means, with the least and the most in brackets. In "
    "OpenVINO: the emitted file on the 10,000 test images; file off by: between that and the trained model in torch, the worst "
    "seed. Zeros: of the file's weights. Packed: with zlib. Latency of the first seed's file, batch 1, "
    f"INFERENCE_PRECISION_HINT=f32, {THREADS} thread, all files side by side; medians with 95% bootstrap intervals."
)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.laboratory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs of some of the images, one seed: does everything run?")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="such as int8; fp32, which the others need, is always there"
    )
    parser.add_argument("--seeds", type=int, help="of the rows that matter (3); the others have one")
    parser.add_argument("--epochs", type=int, help="at most so many of each training")
    parser.add_argument("--images", type=int, help="of the 60,000 to train on")
    parser.add_argument("--data", type=Path, default=fashion.DEBIAN_FOLDER, help="folder of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, help="of checkpoints, files and finished rows")
    parser.add_argument("--output", type=Path, help="folder of the table and the plots")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--fresh", action="store_true", help="train everything anew")
    parser.add_argument("--report", action="store_true", help="train nothing: table and plots of the rows that are there")
    options = parser.parse_args(arguments)
    defaults: dict[str, Any] = QUICK if options.quick else {"epochs": None, "images": None, "seeds": 3}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.folder = options.folder or ROOT / "out" / ("laboratory-quick" if options.quick else "laboratory")
    options.output = options.output or ROOT / ("out/benchmarks" if options.quick else "benchmarks/results")
    try:
        options.only = find_methods(options.only) if options.only else METHODS
    except InputError as problem:
        parser.error(str(problem))
    return options


if __name__ == "__main__":
    sys.exit(main())
