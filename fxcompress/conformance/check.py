"""A written file, run in its target's runtime beside the simulation, before it gets its name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx

from fxcompress.conformance.bisection import first_that_fails
from fxcompress.conformance.client import CHILD, FileProblem
from fxcompress.conformance.counting import unpacked_weights
from fxcompress.conformance.rounding import Constants
from fxcompress.conformance.simulation import Agreement, Simulation, as_in_file
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.sized import sized_inputs
from fxcompress.emit.files import declared_shapes
from fxcompress.errors import VerificationError, describe
from fxcompress.report.rows import Row
from fxcompress.storage.atomic import passing_folder
from fxcompress.storage.memory import give_back

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "onnxruntime"}
"""The runtimes that can be asked, with the names that readers know them by."""

_START_SECONDS = 60.0
_SLOWEST = 5e6  # bytes a second that a runtime loads at the least
_REMEDY = "leave its layer in float (Quantize(ignored=[...])), or write the file as it is with verify=False"


@dataclass
class FileCheck:
    """Runs files that hold a lowered graph.

    Attributes:
        lowered: what the file computes.
        example: inputs to run it on; see `sized_inputs`.
        runtime: a key of `RUNTIMES`.
        emit: the ONNX model of a lowered graph.
        write: writes such a model to a path, in the file's format.
        strict: whether a difference that rounding does not explain is an error rather than a warning.
        shown: the file's name in messages.
        row: that of the report, once a file was looked at.
        mismatch: what to warn of, if anything.
    """

    lowered: fx.GraphModule
    example: ExampleInputs
    runtime: str
    emit: Callable[[fx.GraphModule], ir.Model]
    write: Callable[[ir.Model, Path], Path]
    strict: bool
    shown: Path
    row: Row | None = field(default=None, init=False)
    mismatch: str | None = field(default=None, init=False)
    seconds: float = field(init=False)
    constants: Constants | None = field(default=None, init=False)
    explained: dict[int, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.seconds = _START_SECONDS

    def __call__(self, path: Path, shapes: dict[str, list[Any]]) -> None:
        """Look at the file at `path`, whose inputs have these shapes; `row` and `mismatch` say what was found.

        Raises:
            VerificationError: the runtime does not load it or dies of it; or, if `strict`, it computes something else.
        """
        started = time.perf_counter()
        name, note, lowest, types = RUNTIMES.get(self.runtime, self.runtime), None, None, None
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        self.seconds += size / _SLOWEST
        try:
            name = f"{name} {CHILD.ask('version', self.runtime, seconds=self.seconds).partition('-')[0]}"
        except FileProblem as problem:
            note = f"not verified, since {name} cannot be asked: {problem}"
        else:
            decibels, fault = [], None
            for simulation, found in self._agreements(path, shapes):
                give_back()
                decibels += [one.decibels for one in found]
                fault = fault or next(((simulation, one) for one in found if one.faulty), None)
            lowest = min(decibels, default=None)
            types = self._types(name)
            self.mismatch = note = fault and self._mismatch(*fault, name)
            self._forget()
        if self.mismatch and self.strict:
            raise VerificationError(self.mismatch)
        nodes, milliseconds = len(self.lowered.graph.nodes), (time.perf_counter() - started) * 1e3
        notes = tuple(one for one in (note, types) if one)
        self.row = Row(f"{self.shown.name} in {name}", "rounding", nodes, nodes, 0, size, lowest, milliseconds, notes)

    def _agreements(self, path: Path, shapes: dict[str, list[Any]]) -> Iterator[tuple[Simulation, list[Agreement]]]:
        """The file beside the simulation, for every size that the model takes; the example's is one."""
        try:
            self._load(path, list(shapes))
        except FileProblem as problem:
            raise VerificationError(self._refusal(problem, None)) from None
        example, others = sized_inputs(shapes.values(), self.example)
        # One after the other: each holds the outputs of its size.
        for simulation in chain([self._simulation(example)], (self._other_simulation(ways) for _, ways in others)):
            if simulation is None:
                continue
            try:
                yield simulation, simulation.compare(self._run(simulation.inputs))
            except FileProblem as problem:
                raise VerificationError(self._refusal(problem, simulation)) from None

    def _simulation(self, inputs: list[Any]) -> Simulation:
        started = time.perf_counter()
        self.constants = self.constants or Constants(self.lowered)
        simulation = Simulation(self.lowered, inputs, self.constants, self.explained)
        self.seconds = max(self.seconds, _START_SECONDS + 200 * (time.perf_counter() - started))
        return simulation

    def _other_simulation(self, alternatives: list[list[list[Any]]]) -> Simulation | None:
        """Of the first inputs that the model takes: what it does not take is no fault of the file."""
        for inputs in (way for ways in alternatives for way in ways):
            with contextlib.suppress(Exception):
                return self._simulation(inputs)
        return None

    def _load(self, path: Path, names: list[str]) -> None:
        request = "load", self.runtime, str(path.resolve()), names
        try:
            CHILD.ask(*request, seconds=self.seconds)
        except FileProblem as problem:
            if not problem.died:
                raise
            CHILD.ask(*request, seconds=self.seconds)  # what an earlier file left behind in the process may have killed it

    def _run(self, inputs: Sequence[Any]) -> list[Tensor]:
        arrays = [as_in_file(leaf).detach().cpu().numpy() for leaf in inputs if isinstance(leaf, Tensor)]
        outputs = CHILD.ask("run", arrays, seconds=self.seconds)
        return [torch.as_tensor(output) for output in outputs]

    def _types(self, name: str) -> str | None:
        """What the runtime made of weights that it unpacks, if there are any and it tells."""
        try:
            told = unpacked_weights(CHILD.ask("loaded_layers", seconds=self.seconds))
        except FileProblem:
            return None
        return told and f"in {name} {told}"

    def _forget(self) -> None:
        try:
            CHILD.ask("forget", seconds=self.seconds)
        except FileProblem:
            CHILD.stop()

    def _mismatch(self, simulation: Simulation, worst: Agreement, name: str) -> str:
        sizes = ", ".join(str(list(leaf.shape)) for leaf in simulation.inputs if isinstance(leaf, Tensor))
        explained = f"{worst.explained:.1f} dB" if worst.explained < float("inf") else "no difference"
        culprit = first_that_fails(self.lowered, lambda part: self._differs(part, simulation.inputs))
        return (
            f"{self.shown} computes something else in {name} than the compiled model does: {worst.decibels:.1f} dB on inputs "
            f"of {sizes}, where rounding explains {explained}; the first value that differs is that of {describe(culprit)}. "
            f"Please report it; until it is mended, {_REMEDY}"
        )

    def _refusal(self, problem: FileProblem, simulation: Simulation | None) -> str:
        what = "does not run" if simulation else "does not load"
        culprit = first_that_fails(self.lowered, lambda part: self._refused(part, simulation))
        reason = " ".join(str(problem).split())
        return (
            f"{self.shown} {what} in {RUNTIMES[self.runtime]}, so nothing was written; the first node that it does not take is "
            f"{describe(culprit)}. It says: {reason[:600]}. Please report it; until it is mended, {_REMEDY}"
        )

    def _differs(self, part: fx.GraphModule, inputs: Sequence[Any]) -> bool:
        """Whether a file of this part of the graph computes something else, or nothing."""
        try:
            outputs = self._outputs(part, inputs)
        except FileProblem:
            return True
        return any(one.faulty for one in Simulation(part, inputs).compare(outputs))

    def _refused(self, part: fx.GraphModule, simulation: Simulation | None) -> bool:
        """Whether the runtime does not take a file of this part of the graph, with the inputs of `simulation` if any."""
        try:
            self._outputs(part, simulation.inputs if simulation else None)
        except FileProblem:
            return True
        return False

    def _outputs(self, part: fx.GraphModule, inputs: Sequence[Any] | None) -> list[Tensor]:
        model = self.emit(part)
        with passing_folder("fxcompress-check") as folder:
            self._load(self.write(model, folder / self.shown.name), list(declared_shapes(model)))
            return self._run(inputs) if inputs is not None else []
