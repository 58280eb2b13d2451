"""Runs: one network, method and seed each, from the float model to a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import fxcompress
from benchmarks.laboratory import measuring
from benchmarks.laboratory.fashion import Fashion
from benchmarks.laboratory.ledger import Ledger, Row
from benchmarks.laboratory.methods import FLOAT, METHODS, Method, Situation, find_methods, slug
from benchmarks.laboratory.networks import build
from benchmarks.laboratory.training import Progress, fine_tune, optimizer_of


@dataclass(frozen=True)
class Run:
    """One model to train."""

    network: str
    method: Method
    seed: int

    def __str__(self) -> str:
        return f"{self.network}, {self.method.name}, seed {self.seed}"

    @property
    def stem(self) -> str:
        """The path of its files, without suffix."""
        return f"{self.network}/seed{self.seed}/{self.method.slug}"


def runs(networks: Sequence[str], methods: Sequence[Method], seeds: int, epochs: int | None = None) -> list[Run]:
    """What there is to train, each float model before what starts from it, and the first seed of everything first.

    Args:
        networks: by name.
        methods: to try; the float model is added.
        seeds: of the methods that are repeated; others have one.
        epochs: at most so many of each training.
    """
    chosen = [method for method in METHODS if method in methods or method.name == FLOAT]
    shortened = [method if epochs is None else method.shortened(epochs) for method in chosen]
    return [
        Run(network, method, seed)
        for seed in range(seeds)
        for network in networks
        for method in shortened
        if network in method.networks and (seed == 0 or method.repeated)
    ]


@dataclass
class Experiment:
    """All runs with one set of data, and the folder that they leave their files in."""

    data: Fashion
    folder: Path
    ledger: Ledger

    def rows(self, network: str) -> list[Row]:
        """The finished rows of `network`, of the methods that still are; none without its float model."""
        known = {method.name for method in METHODS}
        found = [row for row in self.ledger.rows if row.network == network and row.method in known]
        floats = {row.seed for row in found if row.method == FLOAT}
        return [row for row in found if row.seed in floats]

    def forget(self) -> None:
        """Train everything anew: drop the rows and the checkpoints that are there."""
        self.ledger.clear()
        for checkpoint in self.folder.glob("*/seed*/*.pt"):
            checkpoint.unlink()

    def finish(self, run: Run, progress: Progress = lambda *_: None) -> Row:
        """The row of `run`: the one that is there already, or else trained, from its last checkpoint on, and measured."""
        if found := self.ledger.find(str(run)):
            return found
        stem = self.folder / run.stem
        stem.parent.mkdir(parents=True, exist_ok=True)
        compiled = self._train(run, _checkpoint(stem), progress)
        progress("measuring", 0, 1)
        file, onnx = measuring.emit(compiled, run.method, stem)
        measured = measuring.figures(compiled, self.data, file, onnx)
        row = Row(
            run.network,
            run.method.name,
            run.seed,
            epochs=run.method.recipe.epochs,
            images=len(self.data.train_labels),
            file=file.relative_to(self.folder).as_posix(),
            **measured,
        )
        self.ledger.add(row)
        return row

    def _train(self, run: Run, checkpoint: Path, progress: Progress) -> fxcompress.Compiled:
        model = build(run.network, run.seed) if run.method.from_scratch else self._float_model(run)
        progress("compiling", 0, 1)
        stack = run.method.stack(Situation(model, self.data, run.method.recipe.epochs))
        compiled = fxcompress.compile(model, stack, data=self.data.calibration())
        optimizer = optimizer_of(compiled, run.method.recipe, model.state_dict())
        fine_tune(compiled, optimizer, run.method.recipe, self.data, run.seed, checkpoint, progress)
        return compiled

    def _float_model(self, run: Run) -> nn.Module:
        """The trained float model that `run` starts from."""
        stem = replace(run, method=find_methods([slug(FLOAT)])[0]).stem
        model = build(run.network, run.seed)
        model.load_state_dict(torch.load(_checkpoint(self.folder / stem), weights_only=True)["compiled"]["model"])
        return model.eval()


def _checkpoint(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.pt")
