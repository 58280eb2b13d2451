"""The finished runs behind a table, kept beside it: a row of another day or machine stays, and seeds come one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tasks.task import FLOAT, Run, Task, runs
from fxcompress.storage.atomic import write_text

Results = dict[Run, dict[str, Any]]
"""What each run found: ``score``, ``bytes``, ``epochs``, ``trained_on``, ``machine``; ``float``: what it started from had."""


def read(task: Task, folder: Path) -> Results:
    """The runs that were kept beside the table in `folder`."""
    path = _path(task, folder)
    kept = json.loads(path.read_text()) if path.exists() else []
    return {Run(one.pop("network"), one.pop("stack"), one.pop("seed")): one for one in kept}


def finished(task: Task, folder: Path, seeds: int, machine: str) -> Results:
    """The runs that have finished in `folder`, where they were run on `machine`."""
    paths = {run: run.folder(folder) / "result.json" for run in runs(task, list(task.networks), list(task.stacks), seeds)}
    found = {run: json.loads(path.read_text()) for run, path in paths.items() if path.exists()}
    floats = {(run.network, run.seed): one["score"] for run, one in found.items() if run.stack == FLOAT}
    return {
        run: {**one, "float": floats[run.network, run.seed], "machine": machine}
        for run, one in found.items()
        if (run.network, run.seed) in floats
    }


def write(task: Task, folder: Path, found: Results) -> Path:
    """Keep the runs in `folder`, in the order of the table."""
    networks, stacks = list(task.networks), list(task.stacks)
    order = sorted(found, key=lambda run: (networks.index(run.network), stacks.index(run.stack), run.seed))
    kept = [{"network": run.network, "stack": run.stack, "seed": run.seed, **found[run]} for run in order]
    return write_text(_path(task, folder), json.dumps(kept, indent=1) + "\n")


def _path(task: Task, folder: Path) -> Path:
    return folder / f"{task.name}_runs.json"
