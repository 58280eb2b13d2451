"""Which tests run which functions: a pytest plugin that writes it down."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import FrameType

import pytest


class Recorder:
    """Notes for each test the functions of some files that it calls, and how long it takes.

    Attributes:
        calls: by ``file:function``, the tests that call it.
        seconds: of each test.
    """

    def __init__(self, folders: tuple[Path, ...], root: Path):
        self.folders, self.root = folders, root
        self.files: dict[str, str] = {}  # as code calls them, and as the map does; empty for those of other folders
        self.calls: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.seen: set[tuple[str, str]] = set()

    def trace(self, frame: FrameType, event: str, argument: object) -> None:
        """Of every call; no line is traced."""
        code = frame.f_code
        if code.co_filename not in self.files:
            path = Path(code.co_filename).resolve()  # some folders are imported through a link
            inside = any(path.is_relative_to(folder) for folder in self.folders)
            self.files[code.co_filename] = str(path.relative_to(self.root)) if inside else ""
        if file := self.files[code.co_filename]:
            self.seen.add((file, code.co_qualname))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self.seen, started = set(), time.perf_counter()
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = round(time.perf_counter() - started, 2)
            for file, function in self.seen:
                name = function.replace("<locals>.", "").partition(".<")[0]
                key = f"{file}:{name}"
                tests = self.calls.setdefault(key, [])
                if item.nodeid not in tests[-1:]:
                    tests.append(item.nodeid)

    def write(self, path: Path) -> None:
        """Put what was seen beside what other runs saw."""
        calls, seconds = read(path)
        for key, tests in self.calls.items():
            calls[key] = sorted({*calls.get(key, []), *tests})
        path.write_text(json.dumps({"calls": calls, "seconds": {**seconds, **self.seconds}}))


def read(path: Path) -> tuple[dict[str, list[str]], dict[str, float]]:
    """The calls and the seconds that were written to `path`; nothing where nothing was."""
    if not path.is_file():
        return {}, {}
    held = json.loads(path.read_text())
    return held["calls"], held["seconds"]
