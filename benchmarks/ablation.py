"""What passes make of real networks: the emitted files, run in OpenVINO, pipeline by pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fxcompress
from benchmarks import openvino_runner, peers
from benchmarks.pipelines import EIGHT_BITS, FLOAT, FOUR_BITS
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.subjects import Subject, subject
from fxcompress import Pass

NETWORKS = tuple(EIGHT_BITS)

FOUR_BIT_BARS = {
    "efficientnet_lite0": {"top-1": Bar("at least", 80.0), "file": Bar("at most", 0.16)},
    "minilm_l6": {"cosine": Bar("at least", 0.98), "file": Bar("at most", 0.16)},
}


def eight_bits(
    folder: Path, networks: Sequence[str], *, calibration: int, scoring: int, report: Callable[[str], None]
) -> Section:
    """What each pass adds to ranges alone."""
    title = "Passes, alone and together"
    chosen = {name: EIGHT_BITS[name] for name in networks}
    return _section(title, chosen, {}, folder, calibration=calibration, scoring=scoring, report=report)


def four_bits(
    folder: Path, networks: Sequence[str], *, calibration: int, scoring: int, report: Callable[[str], None]
) -> Section:
    """4-bit weights."""
    title = "4-bit weights, 8-bit activations"
    chosen = {name: FOUR_BITS[name] for name in networks}
    return _section(title, chosen, FOUR_BIT_BARS, folder, calibration=calibration, scoring=scoring, report=report)


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
