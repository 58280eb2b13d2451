"""Tests, run in a process of their own over a module whose source was changed in memory. No file is written."""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PASSED, FAILED, NO_TESTS = 0, 1, 5  # of pytest


class ChangedSource(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `module` from a tree in place of its file."""

    def __init__(self, module: str, path: Path, tree: ast.Module):
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def run_tests(tests: Sequence[str], limit: float, changed: ChangedSource | None = None, log: Path | None = None) -> int:
    """The exit status of pytest over `tests`, which stops at the first failure; `FAILED` after `limit` seconds.

    What the tests import must not have been imported here, but for other packages than this one.
    """
    child = os.fork()
    if not child:
        os.setsid()
        with contextlib.suppress(BaseException):
            _run(tests, changed, log)
        os._exit(FAILED)  # what cannot be imported fails its tests
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return FAILED


def _run(tests: Sequence[str], changed: ChangedSource | None, log: Path | None) -> None:
    import pytest

    out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if changed is not None:
        sys.meta_path.insert(0, changed)
    status = pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"])
    sys.stdout.flush()
    os._exit(int(status))
