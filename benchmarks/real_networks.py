"""INT8 after training on networks with real weights, against peers, in both runtimes.

    python -m benchmarks.real_networks                  # hours on two busy cores: the table of the repository
    python -m benchmarks.real_networks --quick          # few samples of the small networks
    python -m benchmarks.real_networks --networks mobilenet_v2 xfeat --tools fxcompress onnxruntime
    python -m benchmarks.real_networks --again fxcompress
    python -m benchmarks.real_networks --kept                 # the table of what has been measured so far

Calibrated on photographs and scored on other photographs, textures and drawings; text on other text. Whatever is chosen for the
default pipeline is to be chosen with a network left out, and reported on that one. A network or a tool that fails has a note.
What a tool measured on a network is kept in out/benchmarks/rows/, so that a run that was cut off goes on where it was, and
one tool can be measured again (--again) beside the others as they are. Needs what benchmarks.post_training needs, and the
packages that carry the weights (`benchmarks.trained`). Writes real_networks.md and .json to benchmarks/results/, with --quick
to out/benchmarks/, or to --output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import fxcompress
from benchmarks import peers, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.openvino_runner import all_outputs
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.trained import NETWORKS, Network
from fxcompress import defaults, passes
from fxcompress.storage.atomic import write_text

QUICK = {"calibration": 20, "scoring": 40, "networks": ["mobilenet_v2", "xfeat", "mtcnn_rnet", "mtcnn_onet"]}

BATCH = 10

ROWS = Path("out", "benchmarks", "rows")
"""A file for each tool on each network."""

GAIN = 1.5
"""Decibels that high effort is to be worth."""

RUNTIMES = ("OpenVINO", "onnxruntime")

console = Console(stderr=True)


def float_file(network: Network, batches: Sequence[Any], folder: Path) -> Path:
    """FP32, written with no passes at all."""
    path = folder / "float.onnx"
    if not path.exists():
        fxcompress.compile(network.load(), [], data=batches).to_onnx(path)
    return path


def _fxcompress(network: Network, batches: Sequence[Any], folder: Path) -> Path:
    return fxcompress.compile(network.load(), data=batches).to_onnx(folder / "fxcompress.onnx")


def _from_lowest_to_highest(network: Network, batches: Sequence[Any], folder: Path) -> Path:
    """The default pipeline, but for the ranges of activations."""
    ranges = passes.Calibrate(estimator="min_max")
    chosen = [ranges if isinstance(one, passes.Calibrate) else one for one in defaults.post_training()]
    return fxcompress.compile(network.load(), chosen, data=batches).to_onnx(folder / "min-max.onnx")


def _with_high_effort(network: Network, batches: Sequence[Any], folder: Path) -> Path:
    """Weights and ranges trained without labels as well."""
    chosen = defaults.post_training(effort="high")
    return fxcompress.compile(network.load(), chosen, data=batches).to_onnx(folder / "high.onnx")


def _nncf(preset: str | None) -> Callable[[Network, Sequence[Any], Path], Path]:
    """NNCF on the FP32 file as OpenVINO reads it; networks on tokens in its transformer mode.

    LSTMs stay in float: OpenVINO's plugin for CPUs does not load those that NNCF has quantized ("LSTMSequence node ... expects
    Constant for port 5").
    """

    def build(network: Network, batches: Sequence[Any], folder: Path) -> Path:
        nncf, openvino = need("nncf"), need("openvino")
        model = openvino.Core().read_model(float_file(network, batches, folder))
        names = [port.get_any_name() for port in model.inputs]
        samples = [dict(zip(names, (array.numpy() for array in _tensors(batch)))) for batch in batches]
        options: dict[str, Any] = {"preset": nncf.QuantizationPreset(preset)} if preset else {}
        if len(names) > 1:
            options["model_type"] = nncf.ModelType.TRANSFORMER
        options["ignored_scope"] = nncf.IgnoredScope(types=["LSTMSequence"], validate=False)
        quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), **options)
        path = folder / f"nncf-{preset or 'default'}.xml"
        openvino.save_model(quantized, path, compress_to_fp16=False)
        return path

    return build


def _onnxruntime(network: Network, batches: Sequence[Any], folder: Path) -> Path:
    """Static quantization as `benchmarks.peers` has it, for any number of inputs."""
    path = folder / "onnxruntime.onnx"
    return peers.quantize_static(float_file(network, batches, folder), [_tensors(batch) for batch in batches], path)


TOOLS: dict[str, Callable[[Network, Sequence[Any], Path], Path]] = {
    "fxcompress": _fxcompress,
    "fxcompress high": _with_high_effort,
    "fxcompress min_max": _from_lowest_to_highest,
    "NNCF": _nncf(None),
    "NNCF MIXED": _nncf("mixed"),
    "onnxruntime": _onnxruntime,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and write the table after each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_networks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples of the small networks")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NETWORK")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="TOOL")
    parser.add_argument("--again", nargs="+", choices=TOOLS, default=[], metavar="TOOL", help="measure these, kept or not")
    parser.add_argument("--kept", action="store_true", help="write the table of what is kept, and measure nothing")
    parser.add_argument("--calibration", type=int, help="samples to calibrate on")
    parser.add_argument("--scoring", type=int, help="samples to score on")
    parser.add_argument("--seed", type=int, default=0, help="of the scored crops: choices are made on others than 0")
    parser.add_argument("--output", type=Path, help="folder of the results")
    options = parser.parse_args(arguments)
    usual: dict[str, Any] = QUICK if options.quick else {"calibration": 300, "scoring": 500, "networks": list(NETWORKS)}
    calibration, scoring = (getattr(options, name) or usual[name] for name in ("calibration", "scoring"))
    output = options.output or (Path("out", "benchmarks") if options.quick else Path(__file__).parent / "results")
    machine = describe_machine()
    section = Section(
        "Networks with real weights, INT8 after training",
        f"{date.today()}. Calibrated on {calibration} samples, scored on {scoring} of other pictures "
        "against FP32. SQNR of the output that agrees least, and the share of answers that are those of FP32, the file run in "
        "OpenVINO and in onnxruntime. Bars: the best of the other tools in the same run.",
    )
    for name in options.networks or usual["networks"]:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(Path(folder), name, calibration, scoring, options.seed)
            rows = {tool: trial.row(tool, again=tool in options.again, only_kept=options.kept) for tool in options.tools}
        section.notes += [f"{name}, {tool}: {row['note']}" for tool, row in rows.items() if "note" in row]
        section.notes += _earlier(name, rows)
        section.figures += _judged([figure for tool, row in rows.items() for figure in _figures(f"{name}, {tool}", row)])
        scoreboard.write([section], machine, output, "real_networks")
    scoreboard.show([section], machine)
    return 0


@dataclass(frozen=True)
class Trial:
    """What tools are tried on: one network, on so many samples. Files are made in `folder`."""

    folder: Path
    name: str
    calibration: int
    scoring: int
    seed: int

    def row(self, tool: str, again: bool = False, only_kept: bool = False) -> dict[str, Any]:
        """By runtime, what `tool`'s file answers: SQNR, and agreement; or a note of why there is none."""
        kept = ROWS / f"{self.name}-{tool.replace(' ', '-')}-{self.calibration}-{self.scoring}-{self.seed}.json"
        if only_kept and not kept.exists():
            return {"note": "not measured"}
        if again or not kept.exists():
            console.print(f"{self.name}: {tool}")
            started = time.perf_counter()
            try:
                with peers.quiet():
                    measured = self._measure(tool)
            except Exception as problem:
                return {"note": _short(problem)}
            seconds = round(time.perf_counter() - started)
            text = json.dumps({"date": str(date.today()), "seconds": seconds, **measured}, indent=1)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, text + "\n")
        return json.loads(kept.read_text())

    def _measure(self, tool: str) -> dict[str, dict[str, float]]:
        network = NETWORKS[self.name]
        batches, scored = network.batches(self.calibration), network.scoring(self.scoring, self.seed)
        reference = in_onnxruntime(float_file(network, batches, self.folder), scored)
        path = TOOLS[tool](network, batches, self.folder)
        runs = {"OpenVINO": all_outputs(path, *scored, batch=BATCH)}
        if path.suffix == ".onnx":
            runs["onnxruntime"] = in_onnxruntime(path, scored)
        return {runtime: network.score(answers, reference) for runtime, answers in runs.items()}


def _earlier(name: str, rows: Mapping[str, dict[str, Any]]) -> list[str]:
    """A note of the tools that were measured on `name` before today, which files of today may not be like."""
    days: dict[str, list[str]] = {}
    for tool, row in rows.items():
        if (day := row.get("date", str(date.today()))) != str(date.today()):
            days.setdefault(day, []).append(tool)
    return [f"{name}: {', '.join(tools)} measured on {day}" for day, tools in days.items()]


def _figures(subject: str, row: dict[str, Any]) -> list[Figure]:
    """Those of a kept row, in the order of the table's columns."""
    return [
        Figure(
            subject, f"{'SQNR' if quantity == 'SQNR' else 'same answer'}, {runtime}", value, "dB" if quantity == "SQNR" else "%"
        )
        for runtime in RUNTIMES
        for quantity, value in row.get(runtime, {}).items()
    ]


def _judged(figures: list[Figure]) -> list[Figure]:
    """`figures`, those of fxcompress with the best of the others as their bar, with high effort `GAIN` as well."""
    judged = []
    for figure in figures:
        alike = {x.subject.partition(", ")[2]: x.value for x in figures if x.quantity == figure.quantity}
        bars = [value for tool, value in alike.items() if not tool.startswith("fxcompress")]
        tool = figure.subject.partition(", ")[2]
        if tool == "fxcompress high" and figure.unit == "dB":
            bars += [alike["fxcompress"] + GAIN] if "fxcompress" in alike else []
        bar = Bar("at least", max(bars)) if bars and tool in ("fxcompress", "fxcompress high") else None
        judged.append(Figure(figure.subject, figure.quantity, figure.value, figure.unit, bar=bar))
    return judged


def in_onnxruntime(path: Path, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All outputs of the file for all samples, `BATCH` at a time."""
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    starts = range(0, len(arrays[0]), BATCH)
    parts = [session.run(None, {name: x[start : start + BATCH] for name, x in zip(names, arrays)}) for start in starts]
    return [np.concatenate(outputs) for outputs in zip(*parts)]


def _tensors(batch: Any) -> tuple:
    return batch if isinstance(batch, tuple) else (batch,)


def _short(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:320]}"


if __name__ == "__main__":
    sys.exit(main())
