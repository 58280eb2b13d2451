"""``python -m benchmarks.integrations``: run every pipeline whose framework is installed, and write the table."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from benchmarks.integrations.rows import run
from benchmarks.integrations.table import FRAMEWORKS, update
from benchmarks.models import import_torchvision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run what has this text in its name, and print it")
    arguments = parser.parse_args()
    import_torchvision()  # which the others import as well
    for framework, module in FRAMEWORKS.items():
        if importlib.util.find_spec(framework) is None:
            print(f"{framework} is not installed")
            continue
        for row in run(framework, importlib.import_module(module).cases(), arguments.only):
            update(row)


if __name__ == "__main__":
    main()
