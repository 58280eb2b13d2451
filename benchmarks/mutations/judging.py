"""Whether the tests that execute a place see its change."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutations.changes import Mutant, mutated
from benchmarks.mutations.choosing import Executed, Texts, in_order
from benchmarks.mutations.trial import NO_TESTS, PASSED, ChangedSource, run_tests

SEEN, SURVIVED, NO_TEST, UNCLEAR = "seen", "survived", "no test", "unclear"
FIRST = 10  # so many tests are tried before the others: most changes are seen by them
PATIENCE = 5.0  # what hangs takes so many times its recorded seconds
START = 60.0  # seconds that importing and collecting may take


@dataclass(frozen=True)
class Source:
    """A module that is changed."""

    room: str
    module: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text()


@dataclass(frozen=True)
class Verdict:
    """What came of a change.

    Attributes:
        verdict: one of four words.
        by: the test that saw it.
        tried: how many tests ran, at most.
        of: how many execute the place.
        seconds: that it took.
    """

    verdict: str
    by: str
    tried: int
    of: int
    seconds: int


class Judge:
    """Tries changes.

    Attributes:
        limit: seconds of recorded tests for each change.
        of_declarations: the test that sees what is declared and not computed.
        log: where pytest says what failed.
    """

    def __init__(self, root: Path, executed: Executed, texts: Texts, limit: float, of_declarations: str, log: Path):
        self.root, self.executed, self.texts = root, executed, texts
        self.limit, self.of_declarations, self.log = limit, of_declarations, log
        self._anyway: dict[tuple[str, ...], bool] = {}

    def tests(self, source: Source, mutant: Mutant) -> tuple[list[str], int]:
        """Those that are tried, in their order, and how many could be."""
        file = str(source.path.relative_to(self.root))
        lines = self.texts.lines_of(file, mutant.line)
        found = {test for name, held in lines.items() for test in self.executed.tests(name, held)}
        chosen = in_order(sorted(found), self.executed.seconds, self.limit)
        if not self.texts.in_function(file, mutant.line) and self.of_declarations not in chosen:
            chosen.insert(0, self.of_declarations)
        return chosen, len(found)

    def judge(self, source: Source, mutant: Mutant) -> Verdict:
        """Run the first few tests, then the others, until one fails that does not fail without the change."""
        started = time.monotonic()
        tests, of = self.tests(source, mutant)
        verdict, by = (SURVIVED, "") if tests else (NO_TEST, "")
        changed = ChangedSource(mutant.module, source.path, mutated(source.text, mutant.index))
        for part in (tests[:FIRST], tests[FIRST:]):
            while part and verdict != SEEN and (suspects := self._suspects(part, changed)):
                if self._fails_anyway(source, suspects):
                    verdict = UNCLEAR
                    part = part[part.index(suspects[-1]) + 1 :]
                else:
                    verdict, by = SEEN, suspects[0] if len(suspects) == 1 else f"one of {len(suspects)} from {suspects[0]} on"
        return Verdict(verdict, by, len(tests), of, round(time.monotonic() - started))

    def _suspects(self, tests: Sequence[str], changed: ChangedSource) -> list[str]:
        """None where all pass; the test that failed, or all that may have where that is not said, as of a hang."""
        self.log.unlink(missing_ok=True)
        limit = START + PATIENCE * sum(self.executed.seconds.get(test, 1.0) for test in tests)
        if run_tests(tests, limit, changed, self.log) in (PASSED, NO_TESTS):
            return []
        named = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", self.log.read_text(errors="replace"), re.MULTILINE)
        return [test for test in tests if named and test.startswith(named[0])] or list(tests)

    def _fails_anyway(self, source: Source, tests: Sequence[str]) -> bool:
        """Whether they fail where the module is imported the same way and nothing is changed."""
        key = (source.module, *tests)
        if key not in self._anyway:
            self._anyway[key] = bool(self._suspects(tests, ChangedSource(source.module, source.path, ast.parse(source.text))))
        return self._anyway[key]
