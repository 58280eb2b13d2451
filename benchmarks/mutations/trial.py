"""Tests, run in a process of their own over a module whose source was changed in memory. No file is written."""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.util
import linecache
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

PASSED, FAILED, NO_TESTS = 0, 1, 5  # of pytest
OUT_OF_TIME = -1


class ChangedSource(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `module` from a tree in place of its file, also for who reads its source, as Triton does."""

    def __init__(self, module: str, path: Path, tree: ast.Module):
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        text, file = ast.unparse(self.tree), str(self.path)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # without a time it is never read anew
        exec(compile(text, file, "exec"), module.__dict__)


def run_tests(tests: Sequence[str], limit: float, changed: ChangedSource | None = None, log: Path | None = None) -> int:
    """The exit status of pytest over `tests`, which stops at the first failure; `OUT_OF_TIME` after `limit` seconds.

    What the tests import must not have been imported here, but for other packages than this one.
    """

    def run() -> int:
        import pytest

        if changed is not None:
            sys.meta_path.insert(0, changed)
        return int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]))

    return in_a_child(run, limit, log)


def in_a_child(run: Callable[[], int], limit: float, log: Path | None = None) -> int:
    """What `run` returns in a process of its own, where what it prints goes into `log` or nowhere.

    `FAILED` where it raises, `OUT_OF_TIME` after `limit` seconds, when it and its children are ended.
    """
    child = os.fork()
    if not child:
        os.setsid()
        status = FAILED  # what cannot be imported fails its tests
        try:
            out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            status = run()
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return OUT_OF_TIME
