"""What room for sums of products costs and saves: on CPUs with VNNI, and on those without.

    python -m benchmarks.saturation                          # a quarter of an hour on a core
    python -m benchmarks.saturation --networks mobilenet_v2 --scoring 100
    python -m benchmarks.saturation --networks xfeat --ways "full range" pairs "pairs, ordered"

INT8 after training with each `reduce_range`, channels ordered or not, and NNCF's default, in the simulation, which adds up
products as VNNI does, and in both runtimes on this CPU. Needs what benchmarks.real_networks needs. Writes saturation.md and
.json to benchmarks/results/, or to --output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fxcompress
from benchmarks import peers, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.openvino_runner import all_outputs
from benchmarks.real_networks import BATCH, TOOLS, float_file, in_onnxruntime
from benchmarks.scoreboard import Figure, Section
from benchmarks.trained import NETWORKS, Network
from fxcompress import defaults, passes
from fxcompress.targets import has_vnni

WAYS: dict[str, tuple[Any, bool]] = {
    "full range": (False, False),
    "7 bits": (True, False),
    "pairs": ("pairs", False),
    "pairs, ordered": ("pairs", True),
}
"""What `reduce_range` is, and whether channels are ordered: the last one is the default."""

NNCF = "NNCF"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mobilenet_v2", "minilm_l6"], metavar="NETWORK")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, NNCF], default=[*WAYS, NNCF], metavar="WAY")
    parser.add_argument("--calibration", type=int, default=100, help="samples to calibrate on")
    parser.add_argument("--scoring", type=int, default=200, help="samples to score on")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    section = Section(
        "Sums of products on CPUs with VNNI and without",
        f"{date.today()}, a CPU with{'' if has_vnni() else 'out'} VNNI. INT8 after training, calibrated on "
        f"{options.calibration} samples, scored on {options.scoring} others against FP32; the simulation adds up as VNNI does.",
    )
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder, peers.quiet():
            section.figures += measured(name, options.ways, Path(folder), options.calibration, options.scoring)
        scoreboard.write([section], machine, options.output, "saturation")
    scoreboard.show([section], machine)
    return 0


def measured(name: str, ways: Sequence[str], folder: Path, calibration: int, scoring: int) -> Iterator[Figure]:
    """SQNR and agreement of the network `name`, each way, wherever it runs."""
    network = NETWORKS[name]
    batches, scored = network.batches(calibration), network.scoring(scoring, 1)
    reference = in_onnxruntime(float_file(network, batches, folder), scored)
    for way in filter(WAYS.__contains__, ways):
        compiled = fxcompress.compile(network.load(), _pipeline(*WAYS[way]), data=batches)
        path = compiled.to_onnx(folder / "compiled.onnx", verify=False)
        runs = {
            "simulation": simulated(compiled, scored),
            "OpenVINO": all_outputs(path, *scored, batch=BATCH),
            "onnxruntime": in_onnxruntime(path, scored),
        }
        for where, answers in runs.items():
            yield from _figures(f"{name}, {way}", where, network, answers, reference)
    if NNCF in ways:
        answers = all_outputs(TOOLS[NNCF](network, batches, folder), *scored, batch=BATCH)
        yield from _figures(f"{name}, {NNCF}", "OpenVINO", network, answers, reference)


def _pipeline(reduction: Any, ordered: bool) -> list[Any]:
    """The default, but for these."""
    chosen = [one for one in defaults.post_training() if ordered or not isinstance(one, passes.OrderChannels)]
    return [replace(one, reduce_range=reduction) if isinstance(one, passes.Quantize) else one for one in chosen]


def simulated(compiled: fxcompress.Compiled, scored: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All outputs for all samples, of what is written to a file, in torch."""
    lowered, found = compiled.lower(), []
    with torch.no_grad():
        for start in range(0, len(scored[0]), BATCH):
            parts = [torch.from_numpy(x[start : start + BATCH]) for x in scored]
            found.append([x.numpy() for x in torch.utils._pytree.tree_leaves(lowered(*parts))])
    return [np.concatenate(outputs) for outputs in zip(*found)]


def _figures(subject: str, where: str, network: Network, answers: Any, reference: Any) -> Iterator[Figure]:
    for quantity, value in network.score(answers, reference).items():
        unit = "dB" if quantity == "SQNR" else "%"
        yield Figure(subject, f"{'SQNR' if unit == 'dB' else 'same answer'}, {where}", value, unit)


if __name__ == "__main__":
    sys.exit(main())
