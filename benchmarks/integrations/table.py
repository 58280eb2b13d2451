"""The table of what was run, kept as rows from one run to the next."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks.integrations.rows import Row

FRAMEWORKS = {
    "transformers": "benchmarks.integrations.hugging_face",
    "torchvision": "benchmarks.integrations.torchvision_models",
    "timm": "benchmarks.integrations.timm_recipe",
    "lightning": "benchmarks.integrations.lightning_rows",
    "ultralytics": "benchmarks.integrations.ultralytics_yolo",
    "mmdet": "benchmarks.integrations.mmdetection",
    "mmseg": "benchmarks.integrations.mmsegmentation",
}
"""The module with the pipelines of each."""

RESULTS = Path(__file__).parent.parent / "results"
_PACKAGES = {
    "transformers": ("transformers", "accelerate"),
    "mmdet": ("mmdet", "mmengine"),
    "mmseg": ("mmsegmentation", "mmengine"),
}
_HEAD = """# Pipelines of other people, with compression

What runs inside other frameworks, with how many lines of the user's script, none of theirs changed: `python -m
benchmarks.integrations`, which keeps the rows of what it did not run. Models are small or untrained and data synthetic: this is
about whether things work, and says nothing about accuracy. A pipeline of `benchmarks/integrations/` without a row here has not
been run. How to: [integrations](../../docs/integrations.md).

| framework | pipeline | lines | what came out |
|---|---|---|---|
"""


def update(row: Row, folder: Path = RESULTS) -> None:
    """Put `row` into the table in `folder`, in the place of one of the same names; several runs may do so at a time."""
    with open(folder / "integrations.json", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = {(one["framework"], one["pipeline"]): one for one in json.loads(file.read() or "[]")}
        known[row.framework, row.pipeline] = asdict(row) | {"versions": _versions(row.framework)}
        rows = sorted(known.values(), key=lambda one: list(FRAMEWORKS).index(one["framework"]))
        file.truncate(0)
        file.write(json.dumps(rows, indent=1) + "\n")
        lines = [
            f"| {one['versions']} | {one['pipeline']} | {one['lines']} | {one['done'] or 'FAILED: ' + one['failed']} |"
            for one in rows
        ]
        (folder / "integrations.md").write_text(_HEAD + "\n".join(lines) + "\n")


def _versions(framework: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in (*_PACKAGES.get(framework, (framework,)), "torch"))
