"""ImageNet networks without ImageNet: trained on unlabelled photographs, with the float network as the teacher.

    python -m benchmarks.distilled                           # hours on two busy cores; finished rows are kept
    python -m benchmarks.distilled --networks mobilenet_v2 --stacks int8 --seeds 1 --steps 20 --folder /tmp/short

Each row is calibrated, and trained, on crops of the photographs for calibration (`benchmarks.pictures`), and scored on other
pictures that training never sees: the share on which the emitted file, in OpenVINO, names the float network's class. What
training wins is told as a share of what the file after training misses. The default learning rate was chosen by the loss in
training: five times as much loses what it starts from. The table goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fxcompress
from benchmarks import peers, pictures, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.medians import Estimate
from benchmarks.openvino_runner import decibels, outputs, top1_agreement
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.trained import NETWORKS
from fxcompress import QuantizationSpec, passes
from fxcompress.storage.atomic import write_text

ROOT = Path(__file__).parents[1]
SIZE, CALIBRATED_ON, SCORED_ON = 224, 100, 500
FOUR_BITS = QuantizationSpec(bits=4, channel_axis=0, signed=True, narrow=True)
WON = Bar("at least", 50.0)
"""Percent of what is missing to FP32's answers; judged on so many seeds as the other tables are."""
JUDGED = 3


@dataclass(frozen=True)
class Stack:
    """A row: its title, the grid of its weights, whether it is trained, and the row that it is beside."""

    title: str
    weights: Any = "target"
    beside: str | None = None
    bar: Bar | None = None


STACKS = {
    "int8_after": Stack("INT8 after training"),
    "int8": Stack("INT8, distilled", beside="int8_after", bar=WON),
    "w4a8_after": Stack("4-bit weights, 8-bit activations, after training", FOUR_BITS),
    "w4a8": Stack("4-bit weights, 8-bit activations, distilled", FOUR_BITS, beside="w4a8_after"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows that are not there yet, and write the table; returns the exit status."""
    options, machine = _parse(arguments), describe_machine()
    for seed in range(options.seeds):
        for network in options.networks:
            for stack in options.stacks:
                path = options.folder / network / f"seed{seed}" / f"{stack}.json"
                if not path.exists() and not options.report:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_text(path, json.dumps(row(network, stack, seed, options)))
    sections = [section(network, options.folder) for network in options.networks]
    scoreboard.show(sections, machine)
    scoreboard.write(sections, machine, options.output, "distilled")
    return 0


def row(network: str, stack: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one row: agreement in percent, SQNR in dB."""
    torch.manual_seed(seed)
    model, chosen = NETWORKS[network].load(), STACKS[stack]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the teacher has none: what it drops would be noise in what is to be copied
    calibration = pictures.normalized(pictures.crops("calibration", CALIBRATED_ON, SIZE, seed)).split(1)
    compression = fxcompress.compress(model, passes_of(chosen), data=list(calibration))
    if chosen.beside:
        train(compression, seed, options)
    with tempfile.TemporaryDirectory() as folder:
        answers = outputs(compression.to_onnx(Path(folder) / "model.onnx"), _scoring())
    reference = _reference(network)
    found = {"agreement": 100 * top1_agreement(answers, reference), "SQNR": decibels(answers, reference)}
    print(f"{network}, {chosen.title}, seed {seed}: {found}", flush=True)
    return {**found, "images": options.steps * options.batch if chosen.beside else 0}


def passes_of(stack: Stack) -> list[Any]:
    """What the default does after training, and what trains it further."""
    listed: list[Any] = [
        passes.Quantize(weights=stack.weights) if isinstance(one, passes.Quantize) else one
        for one in fxcompress.defaults.post_training()
    ]
    if stack.beside:
        listed = [one for one in listed if not isinstance(one, passes.RoundWeights)]
        listed += [passes.TrainQuantizers(), passes.Distill()]
    return listed


def train(compression: Any, seed: int, options: argparse.Namespace) -> None:
    """Steps of AdamW on new crops, with a cosine schedule."""
    model, controller = compression.model, compression.controller
    optimizer = torch.optim.AdamW(fxcompress.parameter_groups(model, lr=options.lr))
    model.train()
    controller.scheduler.epoch_step()
    for step, images in enumerate(_training(seed, options)):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min((step + 1) / 10, (1 + math.cos(math.pi * step / options.steps)) / 2)
        controller.scheduler.step()
        model(images)
        loss = controller.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: {loss.item():.4f}", flush=True)
    model.eval()


def _training(seed: int, options: argparse.Namespace) -> Iterator[torch.Tensor]:
    for step in range(options.steps):
        crops = pictures.crops("calibration", options.batch, SIZE, seed=1000 * (seed + 1) + step)
        yield pictures.normalized(crops)


@cache
def _scoring() -> np.ndarray:
    return pictures.normalized(pictures.crops("scoring", SCORED_ON, SIZE)).numpy()


@cache
def _reference(network: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        peers.export_float(NETWORKS[network].load(), list(torch.from_numpy(_scoring()[:2]).split(1)), path)
        return outputs(path, _scoring())


def section(network: str, folder: Path) -> Section:
    """The table of one network, from the rows in `folder`."""
    found = Section(
        f"{network} without ImageNet",
        f"Calibrated on {CALIBRATED_ON} crops of photographs, trained on new crops of the same by `Distill` alone, scored on "
        f"{SCORED_ON} crops of pictures that training never sees. Agreement: the share of them on which the emitted file, in "
        "OpenVINO (INFERENCE_PRECISION_HINT=f32), names FP32's class; SQNR: of the logits; made good: the share of what the "
        "file after training misses.",
    )
    rows = {name: _rows(network, name, folder) for name in STACKS}
    for name, stack in STACKS.items():
        of_stack = rows[name]
        if not of_stack:
            continue
        for quantity, unit in (("agreement", "percent"), ("SQNR", "dB")):
            found.figures.append(_figure(stack.title, quantity, [one[quantity] for one in of_stack.values()], unit))
        both = of_stack.keys() & rows[stack.beside].keys() if stack.beside else []
        if both:
            won = [_made_good(rows[stack.beside][seed]["agreement"], of_stack[seed]["agreement"]) for seed in sorted(both)]
            found.figures.append(_figure(stack.title, "made good", won, "%", stack.bar if len(won) >= JUDGED else None))
        images = next(iter(of_stack.values()))["images"]
        trained = f"trained on {images:.0f} crops" if images else "not trained"
        found.notes.append(f"{stack.title}: {trained}, seeds {', '.join(map(str, of_stack))}.")
    found.notes.append(f"No bar is judged on fewer than {JUDGED} seeds; brackets are the least and the most of the seeds.")
    return found


def _rows(network: str, stack: str, folder: Path) -> dict[int, dict[str, float]]:
    paths = sorted((folder / network).glob(f"seed*/{stack}.json"))
    return {int(path.parent.name.removeprefix("seed")): json.loads(path.read_text()) for path in paths}


def _made_good(before: float, after: float) -> float:
    """Percent of what `before` misses to 100% that `after` does not."""
    return 100 * (after - before) / (100 - before)


def _figure(subject: str, quantity: str, values: Sequence[float], unit: str, bar: Bar | None = None) -> Figure:
    return Figure.of(subject, quantity, Estimate(float(np.mean(values)), min(values), max(values)), unit, bar)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distilled", description=(__doc__ or "").splitlines()[0])
    known = ("mobilenet_v2", "efficientnet_lite0")
    parser.add_argument("--networks", nargs="+", choices=known, default=list(known), metavar="NETWORK")
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=list(STACKS), metavar="STACK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--report", action="store_true", help="run nothing: the table of the rows that are there")
    parser.add_argument("--folder", type=Path, default=ROOT / "out/distilled", help="of the finished rows")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
