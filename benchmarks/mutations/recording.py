"""Which tests execute which lines: a pytest plugin that notes it, and what it noted, a file for each file of tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import coverage
import pytest

from benchmarks.mutations.trial import in_a_child


class Recorder:
    """Notes for each test the lines of the files in some folders that it executes, and how long it takes.

    What is executed where a module is imported is no test's, and what another process executes is not seen.

    Attributes:
        seconds: of each test, in their order.
    """

    def __init__(self, folders: Sequence[Path], root: Path):
        self.root = root
        # Of the folders themselves, since some are imported through a link.
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, source=[str(folder) for folder in folders], messages=False
        )
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        started = time.perf_counter()
        self.coverage.start()
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.coverage.stop()
            self.seconds[item.nodeid] = round(time.perf_counter() - started, 2)

    def lines(self) -> dict[str, dict[int, int]]:
        """By file and line a number whose bits are the tests that execute it, in the order of `seconds`."""
        data, found = self.coverage.get_data(), {}
        bits = {test: 1 << index for index, test in enumerate(self.seconds)}
        for file in data.measured_files():
            name = str(Path(file).relative_to(self.root))
            if executed := data.contexts_by_lineno(file):
                found[name] = {line: sum(bits[test] for test in tests if test in bits) for line, tests in executed.items()}
        return found

    def write(self, path: Path) -> None:
        """All of that, as JSON."""
        lines = {file: {line: f"{tests:x}" for line, tests in held.items()} for file, held in self.lines().items()}
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


def record(file: Path, folders: Sequence[Path], root: Path, examples: int, map_folder: Path) -> None:
    """Run a file of tests in a process of its own, each law on a few examples, and write what its tests execute."""

    def run() -> int:
        import hypothesis

        few = hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        hypothesis.settings.register_profile("few", few)
        recorder = Recorder(folders, root)
        status = pytest.main([str(file), "-q", "-p", "no:cacheprovider", "--hypothesis-profile=few"], plugins=[recorder])
        written = map_folder / f".{file.stem}"
        recorder.write(written)
        os.replace(written, map_folder / f"{file.stem}.json")
        return int(status)

    log = map_folder / "last.log"
    written = map_folder / f"{file.stem}.json"
    written.unlink(missing_ok=True)
    in_a_child(run, 3600, log)
    if not written.exists():
        raise RuntimeError(f"nothing was recorded of {file}:\n{log.read_text(errors='replace')[-2000:]}")
