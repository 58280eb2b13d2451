"""What passes make of real networks: the emitted files, run in OpenVINO, pipeline by pipeline.

    python -m benchmarks.ablation                          # about a quarter of an hour on two cores
    python -m benchmarks.ablation --networks minilm_l6 --images 20 --scoring 20

Needs what benchmarks.post_training needs. Writes ablation.md and .json to benchmarks/results/, or to --output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

import fxcompress
from benchmarks import openvino_runner, peers, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.pipelines import EIGHT_BITS, FLOAT, FOUR_BITS
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.subjects import Subject, subject
from fxcompress import Pass

NETWORKS = tuple(EIGHT_BITS)

FOUR_BIT_BARS = {
    "efficientnet_lite0": {"top-1": Bar("at least", 80.0), "file": Bar("at most", 0.16)},
    "minilm_l6": {"cosine": Bar("at least", 0.98), "file": Bar("at most", 0.16)},
}

TITLES = {"eight_bits": "Passes, alone and together", "four_bits": "4-bit weights, 8-bit activations"}

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--images", type=int, default=300, help="samples for calibration")
    parser.add_argument("--scoring", type=int, default=500, help="samples to score on")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine, sections = describe_machine(), []
    with tempfile.TemporaryDirectory() as folder:
        for one in options.only:
            pipelines, bars = (FOUR_BITS, FOUR_BIT_BARS) if one == "four_bits" else (EIGHT_BITS, {})
            chosen = {name: pipelines[name] for name in options.networks}
            counts = {"calibration": options.images, "scoring": options.scoring}
            sections.append(_section(TITLES[one], chosen, bars, Path(folder), **counts, report=console.print))
            scoreboard.write(sections, machine, options.output, "ablation")
    scoreboard.show(sections, machine)
    return 0


def _section(
    title: str,
    pipelines: Mapping[str, Mapping[str, Sequence[Pass]]],
    bars: Mapping[str, Mapping[str, Bar]],
    folder: Path,
    *,
    calibration: int,
    scoring: int,
    report: Callable[[str], None],
) -> Section:
    """Compile each network with each of its `pipelines`, and score the files; `bars`, by network, are for its last one."""
    result = Section(
        title,
        f"Calibrated on {calibration} samples, scored on {scoring} others against the float model, the file run in OpenVINO. "
        "File: bytes, as a share of FP32. Seconds: from the model to the file.",
    )
    for name, by_label in pipelines.items():
        one = subject(name, calibration, scoring)
        plain = _file(one, FLOAT, folder / f"{name}-float.onnx")
        reference = openvino_runner.outputs(plain, *one.scoring)
        for label, chosen in by_label.items():
            report(f"{name}: {label}")
            started = time.perf_counter()
            path = _file(one, chosen, folder / f"{name}-trial.onnx")
            seconds = time.perf_counter() - started
            row, judged = f"{name}: {label}", bars.get(name, {}) if label == [*by_label][-1] else {}
            result.figures += one.figures(row, openvino_runner.outputs(path, *one.scoring), reference, judged)
            share = path.stat().st_size / plain.stat().st_size
            result.figures.append(Figure(row, "file", share, "ratio", bar=judged.get("file")))
            result.figures.append(Figure(row, "seconds", seconds, "s"))
    return result


def _file(one: Subject, chosen: Sequence[Pass], path: Path) -> Path:
    with peers.quiet():
        return fxcompress.compile(one.model, chosen, data=one.calibration).to_onnx(path)


if __name__ == "__main__":
    sys.exit(main())
