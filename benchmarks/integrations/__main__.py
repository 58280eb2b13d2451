"""``python -m benchmarks.integrations``: run every pipeline whose framework is installed, and write the table."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path

from benchmarks.integrations.rows import run
from benchmarks.integrations.table import FRAMEWORKS, RESULTS, update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run what has this text in its name, and print it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the table")
    arguments = parser.parse_args()
    for framework, module in FRAMEWORKS.items():
        if importlib.util.find_spec(framework) is None:
            print(f"{framework} is not installed")
            continue
        for row in run(framework, importlib.import_module(module).cases(), arguments.only):
            update(row, arguments.results)


if __name__ == "__main__":
    main()
