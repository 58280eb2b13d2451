"""Small changes of the source, and whether a test sees them: python -m benchmarks.mutations

`record` runs tests once and writes down which functions each of them calls; `try` then changes one place at a time, runs the
quickest tests that call it, and lists in benchmarks/results/mutations.md the changes that none of them saw. The same seed tries
the same changes. Nothing is written into the source. With `--most` it fails where more survive.
"""

from __future__ import annotations

import argparse
import importlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutations.changes import Mutant, mutants, mutated
from benchmarks.mutations.recording import Recorder, read
from benchmarks.mutations.trial import NO_TESTS, PASSED, ChangedSource, run_tests

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutations.md"
ROOMS = {
    "passes": ROOT / "passes",
    **{name: ROOT / "fxcompress" / name for name in ("quantization", "quantizers", "channels", "emit", "training")},
}
REFERENCE = "tests/test_reference.py::test_the_reference_is_current"
"""Sees every declared default of what is public, which no function that is called can show."""
WARM = [
    "torch",
    "torch.export",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "hypothesis",
    "pytest",
    "numpy",
    "networkx",
    "rich",
]


@dataclass(frozen=True)
class Source:
    """A module that is changed."""

    room: str
    module: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text()


def sources(rooms: Sequence[str]) -> Iterator[Source]:
    """The modules of the rooms."""
    for room in rooms:
        for path in sorted(ROOMS[room].rglob("*.py")):
            if path.stem != "__init__":
                parts = path.relative_to(ROOMS[room]).with_suffix("").parts
                yield Source(room, ".".join(["fxcompress", room, *parts]), path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, default=ROOT / ".mutations.json", help="where it is held which tests call what")
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="run tests, and add to the map what they call")
    record.add_argument("tests", nargs="*", default=["tests"], help="as pytest takes them (all)")
    record.add_argument("--examples", type=int, default=5, help="of each law; a few find what is called")
    attempt = commands.add_parser("try", help="change places, and run the tests that call them")
    attempt.add_argument("--count", type=int, default=100, help="so many places, drawn from all of them")
    attempt.add_argument("--seed", type=int, default=0, help="of the draw")
    attempt.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    attempt.add_argument("--seconds", type=float, default=40.0, help="of tests for each place, as they were recorded")
    attempt.add_argument("--limit", type=float, default=300.0, help="seconds after which a place counts as seen")
    attempt.add_argument("--output", type=Path, default=RESULTS, help="where the table is written")
    attempt.add_argument("--most", type=float, default=1.0, help="fail if a larger share survives, or has no test")
    options = parser.parse_args()
    if options.command == "record":
        return recorded(options.tests, options.examples, options.map)
    return tried(options)


def recorded(tests: Sequence[str], examples: int, path: Path) -> int:
    """Run `tests` and note what they call."""
    import hypothesis
    import pytest

    few = hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.register_profile("few", few)
    recorder = Recorder(tuple(ROOMS.values()), ROOT)
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=few"]
    status = pytest.main([*tests, *options], plugins=[recorder])
    recorder.write(path)
    return int(status)


def tried(options: argparse.Namespace) -> int:
    """Try places, and write the table."""
    calls, seconds = read(options.map)
    held = {source.module: source for source in sources(options.rooms)}
    everything = [mutant for source in held.values() for mutant in mutants(source.module, source.text)]
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    for name in WARM:
        importlib.import_module(name)
    found: list[tuple[Source, Mutant, str]] = []
    for number, mutant in enumerate(drawn, 1):
        source = held[mutant.module]
        tests = quickest(tests_of(source, mutant, calls), seconds, options.seconds)
        verdict = judged(source, mutant, tests, options.limit)
        found.append((source, mutant, verdict))
        print(f"{number:4d} {verdict:9s} {place(source, mutant)}  {mutant.what}", flush=True)
    options.output.write_text(table(found, options, len(everything)))
    return int(unseen(found) > options.most)


def unseen(found: Sequence[tuple[Source, Mutant, str]]) -> float:
    """The share of changes that no test saw, of those that were decided."""
    decided = [verdict for _, _, verdict in found if verdict != "unclear"]
    return sum(verdict != "seen" for verdict in decided) / max(len(decided), 1)


def tests_of(source: Source, mutant: Mutant, calls: dict[str, list[str]]) -> list[str]:
    """Those that call the function that is changed; of a module's or class's own code, the reference and all that call it."""
    file = str(source.path.relative_to(ROOT))
    exact = calls.get(f"{file}:{mutant.function}", [])
    if exact and mutant.function:
        return exact
    prefix = f"{file}:{mutant.function}." if mutant.function else f"{file}:"
    return sorted({REFERENCE, *(test for key, tests in calls.items() if key.startswith(prefix) for test in tests)})


def quickest(tests: Sequence[str], seconds: dict[str, float], limit: float) -> list[str]:
    """The quickest of `tests`, as many as take `limit` seconds, and at least one."""
    chosen: list[str] = []
    for test in sorted(tests, key=lambda test: (seconds.get(test, 0.0), test)):
        limit -= seconds.get(test, 0.0)
        if limit < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def judged(source: Source, mutant: Mutant, tests: Sequence[str], limit: float) -> str:
    """Whether a test fails that did not fail without the change."""
    if not tests:
        return "no test"
    changed = ChangedSource(mutant.module, source.path, mutated(source.text, mutant.index))
    status = run_tests(tests, limit, changed)
    if status in (PASSED, NO_TESTS):
        return "survived"
    return "seen" if run_tests(tests, limit) == PASSED else "unclear"


def place(source: Source, mutant: Mutant) -> str:
    return f"{source.path.relative_to(ROOT)}:{mutant.line}"


def table(found: Sequence[tuple[Source, Mutant, str]], options: argparse.Namespace, total: int) -> str:
    """What was tried, by room, and each change that no test saw."""
    lines = [
        "# Faults that tests see",
        "",
        f"`python -m benchmarks.mutations try --count {options.count} --seed {options.seed}`: {len(found)} of {total} changes",
        "of one place each (a comparison, a sign, a number, a condition, a call left out), with the quickest tests that call",
        "what is changed. A change that nobody can observe survives as well.",
        "",
        "| folder | changes | seen | survived | no test calls it |",
        "|---|---|---|---|---|",
    ]
    for room in [*options.rooms, "all"]:
        counted = Counter(verdict for source, _, verdict in found if room in (source.room, "all"))
        tries = counted.total() - counted["unclear"]
        if tries:
            shares = [f"{counted[verdict]} ({counted[verdict] / tries:.0%})" for verdict in ("seen", "survived", "no test")]
            lines.append(f"| {room} | {tries} | {' | '.join(shares)} |")
    lines += ["", "## Survivors", ""]
    lines += [f"* `{place(s, m)}` ({verdict}): `{m.what}`" for s, m, verdict in found if verdict in ("survived", "no test")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
