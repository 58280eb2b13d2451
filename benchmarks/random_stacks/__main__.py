"""Random networks through random stacks of passes, written and run in both runtimes: python -m benchmarks.random_stacks

Every operation of the dialect, ranks 2 to 5, odd sizes, several inputs and outputs, shared layers; every pass with every
option; some train a step and go through a checkpoint. The same seed gives the same programs. What is found is made smaller, and
printed as a script.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from benchmarks.random_stacks.generation import random_program
from benchmarks.random_stacks.operations import OPERATIONS
from benchmarks.random_stacks.program import Program, script, used
from benchmarks.random_stacks.shrinking import shrunk
from benchmarks.random_stacks.trial import Finding
from benchmarks.random_stacks.worker import Worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first program; the next one has the next seed")
    parser.add_argument("--count", type=int, default=100, help="so many programs")
    parser.add_argument("--kinds", type=int, default=20, help="make at most so many kinds of findings smaller")
    parser.add_argument("--largest", type=int, default=12, help="steps of a network")
    parser.add_argument("--without", nargs="*", default=[], metavar="OPERATION", help="leave these operations out")
    options = parser.parse_args()
    refused = set(options.without) - set(OPERATIONS)
    if refused:
        parser.error(f"there are no operations {sorted(refused)}")
    found: Counter[str] = Counter()
    started = time.monotonic()
    with Worker() as worker:
        for seed in range(options.seed, options.seed + options.count):
            program = used(random_program(seed, options.largest, frozenset(options.without)))
            finding = worker.tried(program)
            if finding is None:
                continue
            found[finding.kind] += 1
            print(f"seed {seed}: {finding.kind}\n    {' '.join(finding.detail.split())[-200:]}", flush=True)
            if found[finding.kind] == 1 and len(found) <= options.kinds:
                show(*smallest(program, finding, worker))
    minutes = (time.monotonic() - started) / 60
    print(f"\n{sum(found.values())} of {options.count} programs, {len(found)} kinds, {minutes:.1f} minutes")
    for kind, count in found.most_common():
        print(f"{count:5d}  {kind}")
    return 1 if found else 0


def smallest(program: Program, finding: Finding, worker: Worker) -> tuple[Program, Finding]:
    """A small program with a finding of the same kind."""
    last = [finding]

    def fails(smaller: Program) -> bool:
        other = worker.tried(smaller)
        if other is None or other.kind != finding.kind:
            return False
        last.append(other)
        return True

    return shrunk(program, fails), last[-1]


def show(program: Program, finding: Finding) -> None:
    print(f"\n{'-' * 100}\n{script(program)}\n# train a step: {program.train}\n# {finding.kind}\n")
    print("\n".join(f"#   {line}" for line in finding.detail.splitlines()[-12:]), flush=True)
    print("-" * 100, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
