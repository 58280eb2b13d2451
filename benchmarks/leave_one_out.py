"""Each choice of the default pipeline: what networks with real weights would choose for one that was left out.

    python -m benchmarks.leave_one_out                          # hours on a core
    python -m benchmarks.leave_one_out --networks xfeat mtcnn_pnet mtcnn_rnet mtcnn_onet

Each option differs from the default in one thing. Of each kind, the network that is left out is given what has the most
decibels on the mean of the others. Files are scored in the simulation, which is the same on every CPU. What was measured is
kept in out/benchmarks/rows/, so that a run that was cut off goes on where it was. Needs what benchmarks.real_networks needs.
Writes leave_one_out.md and .json to benchmarks/results/, or to --output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
from rich.console import Console

import fxcompress
from benchmarks import peers, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.real_networks import ROWS, float_file, in_onnxruntime
from benchmarks.saturation import simulated
from benchmarks.scoreboard import Figure, Section
from benchmarks.trained import NETWORKS
from fxcompress import Pass, defaults, passes
from fxcompress.storage.atomic import write_text

USUAL = ["mtcnn_rnet", "mtcnn_onet", "mtcnn_pnet", "xfeat", "minilm_l6", "mobilenet_v2", "efficientnet_lite0"]
"""One of each family: what EfficientNet-Lite0 chooses is hardly news to EfficientNet-Lite1."""

DEFAULT = "the default"

Make = Callable[[], list[Pass]]


def _with(one: Pass) -> Make:
    """The default with `one` in the place of its kind, or else behind all."""
    usual = defaults.post_training()
    kinds = [type(each) for each in usual]
    return lambda: [one if type(each) is type(one) else each for each in usual] + ([] if type(one) in kinds else [one])


def _before(kind: type[Pass], one: Pass) -> Make:
    """The default with `one` in front of the pass of this kind."""
    usual = defaults.post_training()
    place = next(place for place, each in enumerate(usual) if isinstance(each, kind))
    return lambda: [*usual[:place], one, *usual[place:]]


def _without(kind: type[Pass]) -> Make:
    return lambda: [each for each in defaults.post_training() if not isinstance(each, kind)]


OPTIONS: dict[str, dict[str, Make]] = {
    "ranges": {
        f'"{estimator}"': _with(passes.Calibrate(estimator=estimator))
        for estimator in ("min_max", "mean_min_max", "percentile", "mse")
    },
    "integers": {
        "nearest": _without(passes.RoundWeights),
        "chosen in all layers": _with(passes.RoundWeights(columns=None, token_columns=None)),
    },
    "order": {"channels as they were": _without(passes.OrderChannels)},
    "wide channels": {
        "not split": _without(passes.SplitChannels),
        "not smoothed": _without(passes.SmoothActivations),
        "made equal in layers": _before(passes.OrderChannels, passes.EqualizeLayers()),
    },
    "biases": {"corrected": _with(passes.CorrectBias())},
}
"""What the default can be told to do otherwise, by kind."""

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and write the tables after each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leave_one_out", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=USUAL, metavar="NETWORK")
    parser.add_argument("--kinds", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="KIND")
    parser.add_argument("--calibration", type=int, default=100, help="samples to calibrate on")
    parser.add_argument("--scoring", type=int, default=200, help="samples to score on")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    samples = f"{date.today()}. Calibrated on {options.calibration} samples, scored on {options.scoring} others against FP32."
    kinds = {kind: OPTIONS[kind] for kind in options.kinds}
    makes = {DEFAULT: defaults.post_training} | {name: make for kind in kinds.values() for name, make in kind.items()}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for network in options.networks:
        trial = _Trial(network, options.calibration, options.scoring)
        scores[network] = {name: trial.score(name, make) for name, make in makes.items()}
        sections = [_each("SQNR", samples, scores), _each("same answer", samples, scores), left_out(kinds, scores)]
        scoreboard.write(sections, machine, options.output, "leave_one_out")
    scoreboard.show(sections, machine)
    return 0


@dataclass(frozen=True)
class _Trial:
    """One network, on so many samples; those of seed 1 score, since results are reported on those of seed 0."""

    network: str
    calibration: int
    scoring: int

    def score(self, option: str, make: Make) -> dict[str, float]:
        """SQNR and agreement with `option`, kept or measured."""
        name = f"{self.network}-left-out-{option}-{self.calibration}-{self.scoring}".replace(" ", "-").replace('"', "")
        kept = ROWS / f"{name}.json"
        if not kept.exists():
            console.print(f"{self.network}: {option}")
            network = NETWORKS[self.network]
            with peers.quiet():
                compiled = fxcompress.compile(network.load(), make(), data=network.batches(self.calibration))
                measured = network.score(simulated(compiled, self._scored), self._reference)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, json.dumps(measured, indent=1) + "\n")
        return json.loads(kept.read_text())

    @cached_property
    def _scored(self) -> list[np.ndarray]:
        return NETWORKS[self.network].scoring(self.scoring, 1)

    @cached_property
    def _reference(self) -> list[np.ndarray]:
        network = NETWORKS[self.network]
        with tempfile.TemporaryDirectory() as folder:
            return in_onnxruntime(float_file(network, network.batches(1), Path(folder)), self._scored)


Scores = Mapping[str, Mapping[str, Mapping[str, float]]]


def _each(quantity: str, samples: str, scores: Scores) -> Section:
    """All that was measured of one quantity: networks against options."""
    section = Section(f"{quantity}, of the default and of what differs from it in one thing", samples)
    for network, row in scores.items():
        for option, values in row.items():
            found = [value for name, value in values.items() if (name == "SQNR") == (quantity == "SQNR")]
            section.figures += [Figure(network, option, value, "dB" if quantity == "SQNR" else "%") for value in found]
    return section


def left_out(kinds: Mapping[str, Iterable[str]], scores: Scores) -> Section:
    """On each network, of each kind, what the mean of all the others chooses."""
    section = Section("Chosen on the other networks", "SQNR on the network that is left out; next to it, the default's.")
    for network in scores if len(scores) > 1 else ():
        others = [row for name, row in scores.items() if name != network]
        for kind, options in kinds.items():
            chosen = max([DEFAULT, *options], key=lambda option: mean(row[option]["SQNR"] for row in others))
            for column, option in (("chosen", chosen), (DEFAULT, DEFAULT)):
                section.figures.append(Figure(f"{network}, {kind}: {chosen}", column, scores[network][option]["SQNR"], "dB"))
    return section


if __name__ == "__main__":
    sys.exit(main())
