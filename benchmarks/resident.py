"""The memory of a process at its most: what it holds, and what is resident.

A process holds what it allocated: anonymous pages (RssAnon of /proc/PID/status). Pages of files, a library's code or weights
that are mapped, are resident as well, and the kernel takes those away and brings them back as it likes: the peak of all that
is resident (VmHWM) depends on what other programs do. The kernel keeps no peak of RssAnon; a process of its own reads it every
`EVERY` seconds, and is not held up where this one keeps Python to itself.
"""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import time
from pathlib import Path

EVERY = 0.002


def status(name: str, process: int | None = None) -> int:
    """Bytes that the kernel tells under `name` of a process, else of this one."""
    lines = Path(f"/proc/{process or os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def held(process: int | None = None) -> int:
    """Bytes of anonymous memory that a process, else this one, holds now."""
    return status("RssAnon", process)


class Resident:
    """Bytes that were resident at the most since `start`, pages of files as well, above what there was then.

    For runtimes, which may map the weights that they read.
    """

    def start(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self.before = status("VmRSS")

    def above(self) -> int:
        return status("VmHWM") - self.before


class Held:
    """Bytes that this process has held at the most since `start`, above what it held then; a context that ends the watch."""

    def __enter__(self) -> Held:
        command = [sys.executable, str(Path(__file__)), str(os.getpid())]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        return self

    def __exit__(self, *problem: object) -> None:
        assert self._watch.stdin and self._watch.stdout
        self._watch.stdin.close()
        self._watch.wait()
        self._watch.stdout.close()

    def start(self) -> None:
        """Forget the peak, and begin a new one."""
        gc.collect()
        self._ask("start")
        self.before = held()
        self._began = time.process_time()

    def above(self) -> int:
        return self._ask("peak") - self.before

    def seconds(self) -> float:
        """Of the CPU, since `start`."""
        return time.process_time() - self._began

    def _ask(self, what: str) -> int:
        assert self._watch.stdin and self._watch.stdout
        self._watch.stdin.write(f"{what}\n")
        return int(self._watch.stdout.readline())


def watch(process: int) -> None:
    """Read what `process` holds until nobody asks any more; answer each line of input by the most since "start"."""
    most = 0
    while True:
        most = max(most, held(process))
        if select.select([sys.stdin], [], [], EVERY)[0]:
            asked = sys.stdin.readline().strip()
            if not asked:
                return
            most = held(process) if asked == "start" else most
            print(most, flush=True)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
