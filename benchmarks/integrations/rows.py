"""One row of the table: a pipeline that was run, with what came out or what stopped it."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass


@dataclass
class Row:
    """What a pipeline did.

    Attributes:
        framework, pipeline: what was run.
        lines: of the user's script that are there for compression.
        done: what came out, in a few words; empty where it failed.
        failed: what stopped it; empty where it ran.
    """

    framework: str
    pipeline: str
    lines: int
    done: str = ""
    failed: str = ""
    seconds: float = 0.0


Case = tuple[str, int, Callable[[], str]]
"""A pipeline's name, the lines for compression, and what runs it."""


def run(framework: str, cases: Iterator[Case], only: str | None = None) -> Iterator[Row]:
    """Run `cases`, each for itself: one that fails is a row too."""
    for pipeline, lines, case in cases:
        if only and only not in f"{framework} {pipeline}":
            continue
        row, started = Row(framework, pipeline, lines), time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row.done = case()
        except Exception as problem:
            traceback.print_exc()
            row.failed = f"{type(problem).__name__}: {problem}".partition("\n")[0][:300]
        row.seconds = time.perf_counter() - started
        print(asdict(row), flush=True)
        yield row


TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
"""``accelerate launch``: with ``--multi_gpu`` it starts processes as torchrun does, on CPUs too."""


def two_processes(module: str, launcher: tuple[str, ...] = TORCHRUN) -> str:
    """What `module` says behind ``RESULT`` when `launcher` runs it on two processes.

    Raises:
        RuntimeError: it fails, or says that something is not so.
    """
    command = [sys.executable, "-m", *launcher, "-m", module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found or "False" in found[0]:
        raise RuntimeError(found[0] if found else (done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return found[0].removeprefix("RESULT ")
