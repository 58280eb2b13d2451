"""Every operation behind and before an integer layer, in both runtimes: python -m benchmarks.operation_sweep

Each operation of `benchmarks/random_stacks/operations.py` is put behind an integer layer, before one, between two, and between
two with an activation and a batch norm in front, for values of two to five dimensions, compiled with the default passes,
written, and run with one, two and five samples beside the simulation. The table says what came out: the decibels where the
file agrees least, or what went wrong. What was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, one_line
from benchmarks.random_stacks.operations import OPERATIONS
from benchmarks.random_stacks.program import Program, Realization, Step, UnfitError, script
from benchmarks.random_stacks.trial import run_beside
from benchmarks.random_stacks.worker import Worker
from fxcompress.storage.atomic import write_text

RESULTS = Path(__file__).parent / "results" / "operation_sweep.md"
RUNTIMES = ("openvino", "onnxruntime")
SHAPES: dict[int, tuple[int, ...]] = {2: (12,), 3: (8, 12), 4: (8, 12, 12), 5: (8, 3, 5, 5)}
"""Sizes of the input without the batch, by the number of dimensions with it: features, tokens, images, volumes."""

LAYER: dict[int, tuple[str, dict[str, Any]]] = {
    2: ("linear", {"out": 12, "bias": True}),
    3: ("linear", {"out": 12, "bias": True}),
    4: ("conv2d", {"out": 8, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "bias": True}),
    5: ("conv3d", {"out": 8, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "bias": True}),
}
"""The integer layer for values of so many dimensions."""

_EXPLAINED = (
    "Decibels are those of the file against the simulation where it agrees least, with 1, 2 and 5 samples. Operations stand "
    "{places} (normed: between two, with an activation and a batch norm in front). A file went wrong if it differs by more "
    "than rounding explains, or does not run: the cell then says for how many dimensions and where. "
    "`python -m benchmarks.operation_sweep`"
)

PLACES = {"between": "between two integer layers", "behind": "behind one", "before": "before one", "normed": "normed"}

NORM: dict[int, tuple[str, dict[str, Any]]] = {
    2: ("batch_norm1d", {}),
    3: ("batch_norm1d", {}),
    4: ("batch_norm2d", {"affine": True}),
    5: ("batch_norm3d", {}),
}
"""What adds numbers to values of so many dimensions."""


@dataclass(frozen=True)
class Case:
    """An operation on values of `rank` dimensions, and where it stands to integer layers."""

    operation: str
    rank: int
    place: str
    program: Program

    @property
    def key(self) -> str:
        return f"{self.operation} {self.rank} {self.place}"


def cases(names: list[str], places: tuple[str, ...] = tuple(PLACES)) -> Iterator[Case]:
    """All cases that PyTorch takes, each with the first choices of the operation that it takes."""
    for name, rank, place in itertools.product(names, SHAPES, places):
        operation = OPERATIONS[name]
        if rank not in operation.ranks or (operation.reads_integers and place != "before"):
            continue
        for values in itertools.islice(itertools.product(*operation.choices.values()), 40):
            choices = dict(zip(operation.choices, values))
            try:
                yield Case(name, rank, place, _program(name, choices, rank, place))
            except UnfitError:
                continue
            break


def _program(name: str, choices: dict[str, Any], rank: int, place: str) -> Program:
    """The network of a case; an operation that reads several values gets those of several layers."""
    operation = OPERATIONS[name]
    shape = SHAPES[rank] if not operation.reads_integers else SHAPES[3][:1] * (rank - 1)
    program = Program(((shape, operation.reads_integers),))
    sources: list[int] = []
    for _ in range(operation.values):
        last = 0
        for kind, given in _in_front(rank, place):
            program = program.with_step(Step(kind, (last,), given))
            last = len(program.steps)
        sources.append(last)
    program = program.with_step(Step(name, tuple(sources), choices))
    held = Realization(program)
    last = len(program.inputs) + len(program.steps) - 1
    if place != "behind":
        behind = LAYER[held.values[0][-1].dim()]
        program = program.with_step(Step(behind[0], (last,), behind[1]))
        last += 1
    program = replace(program, outputs=(last,))
    Realization(program)
    return program


def _in_front(rank: int, place: str) -> list[tuple[str, dict[str, Any]]]:
    """What is done to the input for each value that the operation reads."""
    if place == "before":
        return []
    return [LAYER[rank], ("gelu", {}), NORM[rank]] if place == "normed" else [LAYER[rank]]


def measured(program: Program, folder: Path) -> dict[str, str]:
    """What came out in each runtime: decibels or words."""
    scope: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(script(program), "<case>", "exec"), scope)
            path = scope["compiled"].to_onnx(folder / "model.onnx", verify=False)
            lowered = scope["compiled"].lower()
        except Exception as error:
            return dict.fromkeys(RUNTIMES, f"refused: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
        found = {}
        for runtime in RUNTIMES:
            finding, lowest = run_beside(lowered, path, scope["given"], runtime)
            found[runtime] = f"{finding.kind}: {' '.join(finding.detail.split())[:160]}" if finding else _readable(lowest)
    return found


def _answer(answer: Any) -> dict[str, str]:
    """The worker's answer, or what became of it."""
    return dict.fromkeys(RUNTIMES, answer) if isinstance(answer, str) else answer


def _readable(decibels: float) -> str:
    return "same" if decibels == float("inf") else f"{decibels:.0f}"


def table(rows: dict[str, dict[str, str]], machine: dict[str, Any]) -> str:
    """One row an operation: for each runtime the least decibels by the number of dimensions, or what went wrong where."""
    lines = ["| operation | dimensions | OpenVINO | onnxruntime |", "|---|---|---|---|"]
    names: dict[str, list[str]] = {}
    for key in rows:
        names.setdefault(key.split()[0], []).append(key)
    faults = 0
    for name, keys in names.items():
        ranks = sorted({key.split()[1] for key in keys})
        cells = []
        for runtime in RUNTIMES:
            wrong = [f"{' '.join(key.split()[1:])}: {rows[key][runtime]}" for key in keys if not _sound(rows[key][runtime])]
            faults += len(wrong)
            least = min((float(rows[key][runtime]) for key in keys if rows[key][runtime].isdigit()), default=None)
            sound = "same" if least is None else f"{least:.0f} dB"
            cells.append("; ".join(wrong).replace("|", "/") if wrong else sound)
        lines.append(f"| `{name}` | {', '.join(ranks)} | {' | '.join(cells)} |")
    files = len(rows) * len(RUNTIMES)
    places = ", ".join(said for place, said in PLACES.items() if any(key.endswith(place) for key in rows))
    head = (
        f"# Every operation beside integer layers\n\n{len(names)} operations, {len(rows)} networks in two runtimes: "
        f"{faults} of {files} files went wrong.\n\n{_EXPLAINED.format(places=places)}\n"
    )
    return "\n".join([head, *lines, "", one_line(machine), ""])


def _sound(found: str) -> bool:
    return found == "same" or found.lstrip("-").isdigit()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(OPERATIONS), choices=list(OPERATIONS), metavar="OPERATION")
    parser.add_argument("--places", nargs="*", default=list(PLACES), choices=PLACES)
    parser.add_argument("--again", action="store_true", help="also those that are in the table's .json")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the table; the same with .json beside it")
    options = parser.parse_args()
    stored = options.output.with_suffix(".json")
    machine, rows = describe_machine(), json.loads(stored.read_text())["rows"] if stored.exists() else {}
    asked = [case for case in cases(options.only, tuple(options.places)) if options.again or case.key not in rows]
    with Worker(task="benchmarks.operation_sweep:measured") as worker:
        for case in asked:
            rows[case.key] = found = _answer(worker.asked(case.program))
            if not all(map(_sound, found.values())):
                print(f"{case.key}: {found}", flush=True)
            write_text(stored, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    write_text(options.output, table(rows, machine))
    return int(not all(_sound(text) for row in rows.values() for text in row.values()))


if __name__ == "__main__":
    raise SystemExit(main())
