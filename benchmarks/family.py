"""Every head of transformers, compiled by default: one file, which both runtimes run at other batches and lengths as simulated.

    python -m benchmarks.family                     what has no row yet
    python -m benchmarks.family --only "Bert*"      those that a glob matches, anew

Networks are tiny and have random weights: rows prove that a family is taken, not quality. `float` compiles with no passes and
compares files with the model itself; `INT8` compiles by default and compares files with the simulation. Each is the least
signal to noise of every output over calls of `SIZES`; of files in INT8 it is said as well whether rounding explains what is
left (`fxcompress.conformance.rounding`). A network runs in a process of its own, and its row is kept at once.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import fxcompress
from benchmarks.apart import run_apart
from benchmarks.compile_coverage import in_onnxruntime, in_openvino
from benchmarks.heads import Head, heads
from benchmarks.requirements import need
from fxcompress.conformance.simulation import Simulation
from fxcompress.data.returned import put_together
from fxcompress.execution.agreement import agreement
from fxcompress.storage.atomic import write_text

RESULTS = Path(__file__).parent / "results"
DATA = ((4, 16), (4, 24))
"""Samples and length of the batches that calibrate; the first one is the example."""

SIZES = ((1, 16), (3, 16), (2, 23), (1, 32))
"""Samples and lengths that files are run at. Of a decoder behind a cache a third of the tokens lies in it."""

FLOAT_BAR, SURELY = 60.0, 20.0
"""Decibels that a file of floats has at least; and one of INT8, or as many as all its roundings leave of the float model: those
that fall the other way in a runtime are amplified by what follows, which can be all the way to that in a random network."""


def examine(head: Head, path: Path) -> None:
    """Write the row of `head` to `path`, as far as it came."""
    warnings.simplefilter("ignore")
    need("transformers").logging.set_verbosity_error()
    row: dict[str, Any] = {"name": head.name, "kind": head.kind, "stage": "make"}
    try:
        model = head.build()
        if not tells_samples_apart(_tensors(model, _call(head, model, *DATA[0]))):
            raise ValueError("all samples have the same outputs, which proves nothing: give it larger weights")
        for stage, passes in (("float", []), ("int8", None)):
            row["stage"] = stage
            write_text(path, json.dumps(row))
            started = time.process_time()
            whole = row.get("float", {})
            row[stage] = _tried(head, model, passes, fixed=bool(whole.get("notes") or "parts" in whole))
            row[f"{stage} seconds"] = round(time.process_time() - started, 1)
    except Exception as problem:
        row["problem"] = f"{row['stage']}: {type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]}"
    else:
        del row["stage"]
    write_text(path, json.dumps(row))


def tells_samples_apart(outputs: Sequence[Tensor]) -> bool:
    """Whether some output is another for other samples by more than rounding, or none has a row a sample."""
    several = [one.double() for one in outputs if one.dim() and one.shape[0] > 1 and one.is_floating_point()]
    return not several or any(bool(((one - one[:1]).abs() > 1e-4 * one.abs().max()).any()) for one in several)


class Ties(TorchFunctionMode):
    """Notes whether scores are chosen of which several are equal: a runtime may take others than torch does."""

    met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "topk" and found[0].shape[-1] > 1:
            self.met |= bool((found[0].diff(dim=-1) == 0).any())
        return found


def _tried(head: Head, model: nn.Module, passes: list[Any] | None, fixed: bool) -> dict[str, Any]:
    """The least decibels by runtime, of the files against the model where there are no `passes`, else the simulation.

    A length that is `fixed` is that of all data.
    """
    data = [_call(head, model, *sizes) for sizes in DATA if sizes[1] == DATA[0][1] or not fixed]
    compiled = fxcompress.compile(model, passes, example_inputs=copy.deepcopy(data[0]), data=data)
    if not isinstance(compiled, fxcompress.Compiled):
        reason = re.sub(r"\S*site-packages/", "", next(iter(compiled.left_alone.values()), ""))
        return {"parts": len(compiled.parts), "reason": reason}
    row: dict[str, Any] = {"notes": [note for one in compiled.report.rows for note in one.notes if "fixed" in note]}
    with Ties() as ties:
        _tensors(model, data[0])
    row["ties"] = ties.met
    found: dict[str, list[float]] = {}
    lowered, unexplained = None if passes is not None else compiled.lower(), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = compiled.to_onnx(Path(folder) / "m.onnx", verify=False)
        for sizes in _sizes(row["notes"]):
            given = _call(head, model, *sizes)
            expected = _tensors(model, given)
            simulated = _tensors(compiled, given) if passes is None else expected
            found.setdefault("simulation", []).append(agreement(expected, _tensors(compiled, given)))
            leaves = pytree.tree_leaves(given)
            arrays = [value.numpy() for value in leaves if isinstance(value, Tensor)]
            rounded = None if lowered is None else Simulation(lowered, leaves)
            for runtime, run in (("OpenVINO", in_openvino), ("onnxruntime", in_onnxruntime)):
                outputs = [torch.from_numpy(value) for value in run(path, arrays)]
                found.setdefault(runtime, []).append(agreement(simulated, outputs))
                unexplained |= {runtime for one in (rounded.compare(outputs) if rounded else ()) if one.faulty}
    row["unexplained"] = sorted(unexplained)
    return row | {name: _number(min(values)) for name, values in found.items()}


def _sizes(notes: Sequence[str]) -> list[tuple[int, int]]:
    """Those of `SIZES` that a file can take, of which `notes` say what is fixed."""
    if any("batch size is fixed" in note for note in notes):
        return [DATA[0]]
    return [one for one in SIZES if one[1] == DATA[0][1] or not notes]


def _call(head: Head, model: nn.Module, samples: int, length: int) -> dict[str, Any]:
    given = head.call(samples, length)
    if head.kind == "cached":
        given = fxcompress.decoding_inputs(model, given, past=length // 3)
    order = [*inspect.signature(model.forward).parameters]  # that of a file's inputs
    return dict(sorted(given.items(), key=lambda one: order.index(one[0]) if one[0] in order else len(order)))


@torch.no_grad()
def _tensors(model: nn.Module, given: dict[str, Any]) -> list[Tensor]:
    returned = put_together(model(**copy.deepcopy(given)))  # in the order of files
    return [value for value in pytree.tree_leaves(returned) if isinstance(value, Tensor)]


def _number(value: float) -> float | str:
    return round(value, 1) if math.isfinite(value) else str(value)


def apart(head: Head, limit: float) -> dict[str, Any]:
    """The row of `head`, from a process of its own that has `limit` seconds."""
    row, end, _ = run_apart(examine, head, limit, lambda path: {"name": head.name, "kind": head.kind, "stage": "make"})
    if "stage" in row and "problem" not in row:
        row["problem"] = f"{row['stage']}: {end}"
    return row


def well(row: dict[str, Any]) -> bool:
    """Whether there is one file in float and in INT8, no size of it is fixed, and either runtime computes what it is to."""
    if "problem" in row or any("parts" in row.get(stage, {"parts": 0}) for stage in ("float", "int8")):
        return False
    whole, small = row["float"], row["int8"]
    if small["notes"] or small.get("unexplained"):
        return False
    bar = min(SURELY, float(small["simulation"])) if "unexplained" not in small else -math.inf
    return all(float(whole[one]) >= FLOAT_BAR and float(small[one]) >= bar for one in ("OpenVINO", "onnxruntime"))


def table(rows: Sequence[dict[str, Any]], heading: str) -> str:
    """As a page of the repository."""
    lines = [
        "# Heads of transformers, compiled by default",
        "",
        f"`python -m benchmarks.family`, {heading}. {sum(map(well, rows))} of {len(rows)} well.",
        "",
        *__doc__.strip().splitlines()[5:],
        f"Well: {FLOAT_BAR:.0f} dB in float, and in INT8 nothing that rounding does not explain. Where that was not asked yet,",
        f"INT8 has {SURELY:.0f} dB, or as many as the simulation has to the float model.",
        "",
        "| head | inputs | float: OpenVINO | onnxruntime | INT8: simulation / float | OpenVINO | onnxruntime | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        whole, small = row.get("float", {}), row.get("int8", {})
        equal = "chooses among scores that are equal, each runtime others" if whole.get("ties") else ""
        beyond = "; ".join(f"rounding does not explain what {one} computes" for one in small.get("unexplained", ()))
        told = row.get("problem") or equal or _parts(whole) or _parts(small) or "; ".join(small.get("notes", ())) or beyond
        figures = [whole.get("OpenVINO"), whole.get("onnxruntime"), *map(small.get, ("simulation", "OpenVINO", "onnxruntime"))]
        cells = ["" if one is None else str(one) for one in figures]
        mark = "" if well(row) else "✗ "
        lines.append(f"| {mark}{row['name']} | {row['kind']} | {' | '.join(cells)} | {told.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _parts(found: dict[str, Any]) -> str:
    return f"in {found['parts']} parts: {found['reason']}" if "parts" in found else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what is asked for; the exit status tells whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", nargs="+", help="those that a name or glob matches, also if they have a row")
    parser.add_argument("--failed", action="store_true", help="those whose row is not well, anew")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a network may take")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no network after so many")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    path = options.output / "family.json"
    known = {row["name"]: row for row in (json.loads(path.read_text())["rows"] if path.exists() else [])}
    chosen = [head for pattern in options.only or ["*"] for head in heads(pattern)]
    count = sum(1 for _ in heads())
    versions = [f"{name} {need(name).__version__}" for name in ("transformers", "torch", "openvino", "onnxruntime")]
    started, heading = time.monotonic(), f"{date.today().isoformat()}, {', '.join(versions)}"
    for head in chosen:
        again = options.only or (options.failed and not well(known.get(head.name, {"problem": ""})))
        if (head.name in known and not again) or time.monotonic() - started > options.seconds:
            continue
        row = known[head.name] = apart(head, options.limit)
        print("well" if well(row) else "NOT ", json.dumps(row), file=sys.stderr, flush=True)
        rows = sorted(known.values(), key=lambda one: (one["kind"], one["name"]))
        write_text(path, json.dumps({"heading": heading, "rows": rows}, indent=1) + "\n")
        tried = f"{len(rows)} of the {count} heads of `benchmarks.heads` have been tried"
        write_text(path.with_suffix(".md"), table(rows, f"{heading}; {tried}"))
    return 0 if all(map(well, known.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
