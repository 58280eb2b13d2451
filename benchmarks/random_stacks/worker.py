"""A process that tries programs, so that one which kills it or never ends is a finding like any other."""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.random_stacks.program import Program
from benchmarks.random_stacks.trial import Finding

SECONDS = 120


class Worker:
    """A child process, started when it is needed and again when it died.

    Its `task`, ``module:function``, is a function of a program and a folder for files, whose value JSON can hold.
    """

    def __init__(self, seconds: float = SECONDS, task: str = "benchmarks.random_stacks.trial:tried_as_data"):
        self.seconds, self.task = seconds, task
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def tried(self, program: Program) -> Finding | None:
        """What is wrong with `program`."""
        found = self.asked(program)
        if isinstance(found, str):
            return Finding(found, "the process ended, or was ended, without an answer")
        return found and Finding(**found)

    def asked(self, program: Program) -> Any:
        """What the task makes of `program`; a string where that is nothing: the process hung or died."""
        child = self._started()
        assert child.stdin and child.stdout
        try:
            child.stdin.write(json.dumps(program.dictionary()).encode() + b"\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], self.seconds)[0]:
                self._end()
                return "hangs"
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer:
            return json.loads(answer)
        status = child.wait()
        self._end()
        return f"kills the process ({status})"

    def _started(self) -> subprocess.Popen[bytes]:
        if self.child is None or self.child.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            command = [sys.executable, "-m", "benchmarks.random_stacks.worker", self.task]
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        return self.child

    def _end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def main(task: str) -> None:
    """Answer every program of standard input with a line of JSON."""
    module, _, name = task.partition(":")
    function = getattr(importlib.import_module(module), name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            answers.write(json.dumps(function(Program.of(json.loads(line)), Path(folder))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
