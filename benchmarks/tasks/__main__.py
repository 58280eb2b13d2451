"""The example of a task, run with every stack on real data: one command, from the data to the table.

    pip install -e ".[bench]"
    python -m benchmarks.tasks segmentation                # every row; finished ones are kept, an interrupted one goes on
    python -m benchmarks.tasks segmentation --quick        # a few steps each: does everything run?
    python -m benchmarks.tasks language --only int8 -- --limit 3000 --epochs 1

What follows ``--`` is given to the example. Each row is one run of ``examples/TASK/train.py``, in a folder of its own in
out/tasks/. The table, its plots and what every run found go to benchmarks/results/, of a quick run to out/benchmarks/; rows
that are kept there and not run again stay in the table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import scoreboard
from benchmarks.machine import describe_machine, processor
from benchmarks.tasks import detection, language, plots, recorded, segmentation
from benchmarks.tasks.table import sections
from benchmarks.tasks.task import FLOAT, Task, runs

ROOT = Path(__file__).parents[2]
TASKS: dict[str, Task] = {task.name: task for task in (detection.TASK, language.TASK, segmentation.TASK)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet, and write the table; returns the exit status."""
    options = _parse(arguments)
    task, machine = TASKS[options.task], describe_machine()
    failed = False if options.report else _run(task, options)
    runs_of_it = recorded.read(task, options.output) | recorded.finished(
        task, options.folder, options.seeds, processor(machine)
    )
    if runs_of_it:
        found = sections(task, runs_of_it)
        recorded.write(task, options.output, runs_of_it)
        scoreboard.write(found, machine, options.output, task.name)
        plots.write(task.name, found, options.output)
        scoreboard.show(found, machine)
    return int(failed)


def _run(task: Task, options: argparse.Namespace) -> bool:
    """Whether a run failed."""
    example = str(ROOT / "examples" / task.name / "train.py")
    data = task.data(options.folder / "data", options.quick)
    failed = False
    for run in runs(task, options.networks or list(task.networks), options.only or list(task.stacks), options.seeds):
        if (run.folder(options.folder) / "result.json").exists():
            continue
        if run.stack != FLOAT and not (replace(run, stack=FLOAT).folder(options.folder) / "result.json").exists():
            print(f"{run} starts from the float model, which is not there")
            failed = True
            continue
        arguments = run.command(task, options.folder, data, [*(task.quick if options.quick else ()), *options.more])
        command = [sys.executable, "-m", "benchmarks.tasks.run_example", example, *arguments]
        failed |= subprocess.run(command, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}).returncode != 0
    return failed


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=(__doc__ or "").splitlines()[0])
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--quick", action="store_true", help="a few steps on a little data: does everything run?")
    parser.add_argument("--only", nargs="+", metavar="STACK", help="and the float model that they start from")
    parser.add_argument("--networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="run nothing: the table of the rows that are there")
    parser.add_argument("--folder", type=Path, help="of data, checkpoints, files and finished rows")
    parser.add_argument("--output", type=Path, help="folder of the table")
    options = parser.parse_args(own)
    task = TASKS[options.task]
    for kind, names in (("only", task.stacks), ("networks", task.networks)):
        for name in getattr(options, kind) or []:
            if name not in names:
                parser.error(f"--{kind}: {name!r} is not one of {', '.join(names)}")
    options.more = more
    options.folder = options.folder or ROOT / "out" / ("tasks-quick" if options.quick else "tasks") / options.task
    options.output = options.output or ROOT / ("out/benchmarks" if options.quick else "benchmarks/results")
    return options


if __name__ == "__main__":
    sys.exit(main())
