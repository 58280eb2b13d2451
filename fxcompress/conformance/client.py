"""The other end of the child process that runs written files."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")


class FileProblem(Exception):
    """A runtime refused a file or a run, or died of it, or never came to an end; the message says which, in its words.

    Attributes:
        died: whether the process is gone.
    """

    def __init__(self, message: str, died: bool = False):
        super().__init__(message)
        self.died = died


class Child:
    """A child process, started when it is needed, and again when it died. One serves all files that a process writes."""

    def __init__(self, server: Path = SERVER) -> None:
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection
        self._owner = 0

    def start(self) -> None:
        """Have a process that is ready soon; it is not waited for."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        here, there = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- open for as long as the process runs
        command = [sys.executable, "-P", str(self._server), str(there.fileno()), *sys.path]
        self._process = subprocess.Popen(
            command,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )
        there.close()
        self._pipe, self._owner = here, os.getpid()

    def ask(self, *request: Any, seconds: float) -> Any:
        """The child's answer to a request, as `fxcompress.conformance.server` takes it.

        Raises:
            FileProblem: the child says so, died, or took more than so many seconds.
        """
        self.start()
        try:
            self._pipe.send(request)
            answer = self._pipe.recv() if self._pipe.poll(seconds) else None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise FileProblem(self._obituary(), died=True) from None
        except BaseException:  # interrupted: the answer that is still to come would be taken for the next one's
            self.stop()
            raise
        if answer is None:
            self.stop()
            raise FileProblem(f"did not come to an end within {seconds:.0f} seconds")
        value, problem = answer
        if problem is not None:
            raise FileProblem(problem)
        return value

    def stop(self) -> None:
        """End the process."""
        if self._process is None or self._owner != os.getpid():
            return
        self._pipe.close()
        self._process.kill()
        self._process.wait()
        self._process = None
        self._errors.close()

    def _obituary(self) -> str:
        """How the process ended, with the last that it said."""
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self.stop()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the process that ran it was killed ({how}{': ' + said[-1] if said else ''})"


CHILD = Child()
"""The one that this process has."""

atexit.register(CHILD.stop)
