"""``python -m benchmarks.integrations``: run every pipeline whose framework is installed, and write the table."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.integrations.rows import Row, run
from benchmarks.models import import_torchvision

FRAMEWORKS = {
    "transformers": "benchmarks.integrations.hugging_face",
    "torchvision": "benchmarks.integrations.torchvision_models",
}
RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run what has this text in its name, and print it")
    arguments = parser.parse_args()
    import_torchvision()  # which the others import as well
    rows: list[Row] = []
    for framework, module in FRAMEWORKS.items():
        rows += run(framework, importlib.import_module(module).cases(), arguments.only)


if __name__ == "__main__":
    main()
