"""What weights of other formats cost in OpenVINO: 4 bits, asymmetric 8 bits, and exact sums, against INT8 and FP32.

    python -m benchmarks.formats                    # ten minutes on two cores that do nothing else
    python -m benchmarks.formats --loads 1 --networks mobilenet_v2

All files of a network are measured side by side. Prints a table with the bars and writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import fxcompress
from benchmarks import models, openvino_runner, peers, photographs, scoreboard
from benchmarks.machine import describe_machine, warn_if_busy
from benchmarks.medians import median, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import QuantizationSpec, passes

NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_lite0")

FLOAT, INT8, SYMMETRIC_4, ASYMMETRIC_4, ASYMMETRIC_8, EXACT = (
    "FP32",
    "INT8",
    "4-bit weights",
    "4-bit weights, asymmetric",
    "8-bit weights, asymmetric",
    "INT8, exact sums",
)
WAYS = {
    INT8: passes.Quantize(),
    SYMMETRIC_4: passes.Quantize(weights=QuantizationSpec(bits=4, channel_axis=0, signed=True, narrow=True)),
    ASYMMETRIC_4: passes.Quantize(weights=QuantizationSpec(bits=4, channel_axis=0, symmetric=False)),
    ASYMMETRIC_8: passes.Quantize(weights=QuantizationSpec(channel_axis=0, symmetric=False)),
    EXACT: passes.Quantize(exact_sums=True),
}

BARS = {
    (SYMMETRIC_4, INT8): Bar("at most", 1.05),
    (ASYMMETRIC_4, INT8): None,
    (ASYMMETRIC_8, FLOAT): Bar("at most", 0.5),
    (EXACT, INT8): Bar("at most", 1.0),
    (SYMMETRIC_4, FLOAT): None,
    (INT8, FLOAT): None,
}
"""The ratios that are told, with what is asked of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    options = _parse(arguments)
    machine = describe_machine()
    warn_if_busy(Console(stderr=True).print)
    section = Section(
        "Formats of weights, in OpenVINO",
        "Batch 1, INFERENCE_PRECISION_HINT=f32, latency hint; all files of a network side by side, "
        f"{options.loads} x {options.rounds} rounds in turning order, compiled anew every {options.rounds}; medians.",
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.networks:
            section.figures += measure(name, folder, options)
    scoreboard.show([section], machine)
    scoreboard.write([section], machine, options.output, "formats")
    return 0


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Milliseconds of each file of the network `name`, and the ratios."""
    images = photographs.calibration_images(options.images)
    batches = list(images.split(1))
    files = {way: folder / f"{name}_{number}.onnx" for number, way in enumerate((FLOAT, *WAYS))}
    if not files[FLOAT].exists():
        peers.export_float(models.build(name), batches, files[FLOAT])
    for way, quantize in WAYS.items():
        if not files[way].exists():
            fxcompress.compile(models.build(name), [quantize, passes.Calibrate()], data=batches).to_onnx(files[way])
    sample = images[:1].numpy()
    taken = openvino_runner.latencies(files, sample, loads=options.loads, rounds=options.rounds)
    found = [Figure.of(name, way, median(seconds).scaled(1e3), "ms") for way, seconds in taken.items()]
    for (above, below), bar in BARS.items():
        found.append(Figure.of(name, f"{above} / {below}", paired_ratio(taken[above], taken[below]), "ratio", bar))
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--images", type=int, default=16, help="for calibration")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--files", type=Path, help="folder to keep the models' files in, and to take them from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
