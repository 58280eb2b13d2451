"""A process that tries programs, so that one which kills it or never ends is a finding like any other."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.random_stacks.program import Program
from benchmarks.random_stacks.trial import Finding, tried

SECONDS = 120


class Worker:
    """A child process, started when it is needed and again when it died."""

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def tried(self, program: Program) -> Finding | None:
        """What is wrong with `program`."""
        child = self._started()
        assert child.stdin and child.stdout
        try:
            child.stdin.write(json.dumps(program.dictionary()).encode() + b"\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], self.seconds)[0]:
                self._end()
                return Finding("hangs", f"no answer in {self.seconds} seconds")
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            status = child.wait()
            self._end()
            return Finding(f"kills the process ({status})", "the process ended without an answer")
        found = json.loads(answer)
        return found and Finding(**found)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.child is None or self.child.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            command = [sys.executable, "-m", "benchmarks.random_stacks.worker"]
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        return self.child

    def _end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def main() -> None:
    """Answer every program of standard input with a line: null, or what is wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            finding = tried(Program.of(json.loads(line)), Path(folder))
            answers.write(json.dumps(finding and finding.__dict__) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
