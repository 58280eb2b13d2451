"""Small changes of the source, and whether a test sees them: python -m benchmarks.mutations

`record` runs tests once and writes down which lines each of them executes; `holes` lists the lines that none executes; `try`
changes one place at a time, runs the tests that execute its line, the quickest of each kind first, and lists in
benchmarks/results/mutations.md the changes that none of them saw. The same seed tries the same changes. Nothing is written into
the source. With `--most` it fails where more survive.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.mutations.changes import mutants
from benchmarks.mutations.choosing import Executed, Texts
from benchmarks.mutations.judging import NO_TEST, SEEN, SURVIVED, UNCLEAR, Judge, Source
from benchmarks.requirements import need

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutations.md"
ROOMS = {
    "passes": ROOT / "passes",
    **{name: ROOT / "fxcompress" / name for name in ("quantization", "quantizers", "channels", "emit", "training")},
}
FOLDERS = [ROOT / "fxcompress", ROOT / "passes", ROOT / "patterns"]
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


def sources(rooms: Sequence[str]) -> Iterator[Source]:
    """The modules of the rooms."""
    for room in rooms:
        for path in sorted(ROOMS[room].rglob("*.py")):
            if path.stem != "__init__":
                parts = path.relative_to(ROOMS[room]).with_suffix("").parts
                yield Source(room, ".".join(["fxcompress", room, *parts]), path)


def texts() -> Texts:
    """Of all that is recorded."""
    found = {path for folder in FOLDERS for path in folder.rglob("*.py")}  # which follows no links
    return Texts({str(path.relative_to(ROOT)): path.read_text() for path in sorted(found)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--map", type=Path, default=ROOT / ".mutations", help="a folder: it is held there which tests execute what"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="run tests, and add to the map what they execute")
    record.add_argument("files", nargs="*", type=Path, help="of tests (all that are not in the map)")
    record.add_argument("--examples", type=int, default=10, help="of each law; a few find what is executed")
    commands.add_parser("holes", help="list the lines that no recorded test executes")
    attempt = commands.add_parser("try", help="change places, and run the tests that execute them")
    attempt.add_argument("--count", type=int, default=100, help="so many places, drawn from all of them")
    attempt.add_argument("--seed", type=int, default=0, help="of the draw")
    attempt.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    attempt.add_argument("--seconds", type=float, default=120.0, help="of tests for each place, as they were recorded")
    attempt.add_argument("--rows", type=Path, help="a file of what was tried, a line each, which a second call goes on from")
    attempt.add_argument("--output", type=Path, default=RESULTS, help="where the table is written")
    attempt.add_argument("--most", type=float, default=1.0, help="fail if a larger share survives, or has no test")
    options = parser.parse_args()
    for name in WARM:
        importlib.import_module(name)
    return {"record": recorded, "holes": listed, "try": tried}[options.command](options)


def recorded(options: argparse.Namespace) -> int:
    """Run files of tests, each in a process of its own, and note what they execute."""
    need("coverage")
    from benchmarks.mutations.recording import record

    options.map.mkdir(parents=True, exist_ok=True)
    missing = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if not (options.map / f"{path.stem}.json").exists()]
    for path in options.files or missing:
        started = time.monotonic()
        record(path, FOLDERS, ROOT, options.examples, options.map)
        print(f"{path.stem} {time.monotonic() - started:.0f} s", flush=True)
    return 0


def listed(options: argparse.Namespace) -> int:
    """Print the lines of functions that no test executes."""
    executed, held = Executed(options.map), texts()
    for file, text in held.files.items():
        lines = text.split("\n")
        for number in held.body_lines(file):
            if not executed.tests(file, [number]):
                print(f"{file}:{number}: {lines[number - 1].strip()}")
    return 0


def tried(options: argparse.Namespace) -> int:
    """Try places, and write the table."""
    judge = Judge(ROOT, Executed(options.map), texts(), options.seconds, REFERENCE, options.map / "last.log")
    held = {source.module: source for source in sources(options.rooms)}
    everything = [mutant for source in held.values() for mutant in mutants(source.module, source.text)]
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    rows = options.rows or options.map / f"tried_{options.seed}.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    for number, mutant in enumerate(drawn[len(found) :], len(found) + 1):
        source = held[mutant.module]
        verdict = judge.judge(source, mutant)
        place = f"{source.path.relative_to(ROOT)}:{mutant.line}"
        found.append({"room": source.room, "place": place, "what": mutant.what, **dataclasses.asdict(verdict)})
        with rows.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
        print(
            f"{number:4d} {verdict.verdict:8s} {place}  {mutant.what} | {verdict.by or '-'}"
            f" | {verdict.tried} of {verdict.of} tests, {verdict.seconds} s",
            flush=True,
        )
    options.output.write_text(table(found, options, len(everything)))
    return int(unseen(found) > options.most)


def unseen(found: Sequence[dict]) -> float:
    """The share of changes that no test saw, of those that were decided."""
    decided = [row["verdict"] for row in found if row["verdict"] != UNCLEAR]
    return sum(verdict != SEEN for verdict in decided) / max(len(decided), 1)


def table(found: Sequence[dict], options: argparse.Namespace, total: int) -> str:
    """What was tried, by room, and each change that no test saw."""
    lines = [
        "# Faults that tests see",
        "",
        f"`python -m benchmarks.mutations try --count {options.count} --seed {options.seed}`: {len(found)} of {total} changes",
        "of one place each (a comparison, a sign, a number, a condition, a call left out), with the tests that execute its",
        f"line, {options.seconds:.0f} recorded seconds of them at most. A change that nobody can observe survives as well.",
        "",
        "| folder | changes | seen | survived | no test executes it |",
        "|---|---|---|---|---|",
    ]
    for room in [*options.rooms, "all"]:
        counted = Counter(row["verdict"] for row in found if room in (row["room"], "all"))
        tries = counted.total() - counted[UNCLEAR]
        if tries:
            shares = [f"{counted[verdict]} ({counted[verdict] / tries:.0%})" for verdict in (SEEN, SURVIVED, NO_TEST)]
            lines.append(f"| {room} | {tries} | {' | '.join(shares)} |")
    lines += ["", "## Survivors", ""]
    lines += [f"* `{r['place']}` ({r['verdict']}): `{r['what']}`" for r in found if r["verdict"] in (SURVIVED, NO_TEST)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
