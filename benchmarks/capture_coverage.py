"""Which real models are captured: each is traced, run beside the original, and its state_dict keys compared.

    python -m benchmarks.capture_coverage                       every family (torchvision, timm, Hugging Face)
    python -m benchmarks.capture_coverage --family timm         one family
    python -m benchmarks.capture_coverage --only resnet18       one model (a glob works)

Weights are random, so nothing is downloaded. Needs torchvision, timm and transformers; a family that is missing is skipped.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.cases import FAMILIES, Case, select
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir import dialect

BATCHES = (1, 2, 5)


@dataclass(frozen=True)
class Outcome:
    """What came of it; `problem` is empty where all is well."""

    case: Case
    nodes: int = 0
    seconds: float = 0.0
    difference: float = 0.0
    batch: str = ""
    problem: str = ""


@torch.no_grad()
def examine(case: Case) -> Outcome:
    """Capture the model of `case` and compare the graph with it on three batch sizes."""
    torch.manual_seed(0)
    model = case.make().eval()
    example = case.inputs(1)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph_module = capture(model, example)
        seconds = time.perf_counter() - started
        dialect.check(graph_module)
        if list(graph_module.state_dict()) != list(model.state_dict()):
            return Outcome(case, problem="state_dict keys differ")
        notes = graph_module.meta["capture_notes"]
        fixed = next((note for note in notes if "batch size is fixed" in note), "")
        difference = max(_difference(model, graph_module, case.inputs(b)) for b in (BATCHES[:1] if fixed else BATCHES))
    except Exception as error:
        return Outcome(case, problem=f"{type(error).__name__}: {' '.join(str(error).split())}")
    problem = f"outputs differ by {difference:.1e}" if difference > 1e-4 else "; ".join(notes)
    batch = "1" if fixed else "symbolic"
    return Outcome(case, len(graph_module.graph.nodes), seconds, difference, batch, problem)


def _difference(model: nn.Module, graph_module: nn.Module, example: ExampleInputs) -> float:
    """The largest difference of any output, relative to the largest magnitude in it."""
    expected = pytree.tree_leaves(model(*example.args, **example.kwargs))
    got = pytree.tree_leaves(graph_module(*example.args, **example.kwargs))
    if len(expected) != len(got):
        return float("inf")
    pairs = [(e, g) for e, g in zip(expected, got) if isinstance(e, Tensor)]
    return max(((e - g).abs().max() / e.abs().max().clamp(min=1e-30)).item() for e, g in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this family; may be repeated")
    parser.add_argument("--only", metavar="NAME", default="*", help="only the models that this name or glob matches")
    options = parser.parse_args()
    console = Console()
    cases, missing = select(options.family or list(FAMILIES), options.only)
    for line in missing:
        console.print(f"[yellow]{line}")
    outcomes = []
    for case in track(cases, "capturing", console=console, transient=True):
        outcomes.append(examine(case))
        gc.collect()
    console.print(_table(outcomes))
    console.print(_summary(outcomes))


def _passed(outcome: Outcome) -> bool:
    return bool(outcome.batch) and outcome.difference <= 1e-4


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("family", "model", "captured")
    for name in ("nodes", "seconds", "difference"):
        table.add_column(name, justify="right")
    table.add_column("batch")
    table.add_column("note", overflow="fold", max_width=60)
    for o in outcomes:
        mark = "[green]yes" if _passed(o) else "[red]no"
        figures = (str(o.nodes), f"{o.seconds:.2f}", f"{o.difference:.0e}") if o.batch else ("", "", "")
        table.add_row(o.case.family, o.case.name, mark, *figures, o.batch, o.problem)
    return table


def _summary(outcomes: list[Outcome]) -> Table:
    table = Table("family", "captured and equal", "symbolic batch", title="summary")
    for family in dict.fromkeys(o.case.family for o in outcomes):
        rows = [o for o in outcomes if o.case.family == family]
        good, symbolic = sum(map(_passed, rows)), sum(o.batch == "symbolic" for o in rows)
        table.add_row(family, f"{good} of {len(rows)}", f"{symbolic} of {len(rows)}")
    return table


if __name__ == "__main__":
    main()
