"""The example of a task, run with every stack on real data: one command, from the data to the table.

    pip install -e ".[bench]"
    python -m benchmarks.tasks language                    # every row; finished ones are kept, an interrupted one goes on
    python -m benchmarks.tasks language --quick            # a few steps each: does everything run?
    python -m benchmarks.tasks language --only float int8 --limit 3000

Each row is one run of ``examples/TASK/train.py``, in a folder of its own in out/tasks/. The table goes to benchmarks/results/,
of a quick run to out/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.tasks import language
from fxcompress.storage.atomic import write_text

ROOT = Path(__file__).parents[2]
STACKS = {
    "float": "FP32",
    "after": "INT8 after training",
    "int8": "INT8, trained",
    "w4a8": "4-bit weights, 8-bit activations, trained",
    "sparse": "half of the weights zero, INT8",
    "pruned": "30% of the heads and neurons pruned, INT8, distilled",
    "distilled": "INT8, trained and distilled",
}
QUICK = {"limit": 64, "valid_limit": 64, "epochs": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet, and write the table; returns the exit status."""
    options = _parse(arguments)
    train, valid = language.write(options.folder / "data")
    failed = False
    for stack in options.only:
        output = options.folder / stack
        if (output / "result.json").exists():
            continue
        start = language.model() if stack == "float" else options.folder / "float" / "model"
        example = str(ROOT / "examples" / options.task / "train.py")
        command = [sys.executable, "-m", "benchmarks.tasks.run_example", example, "--stack", stack]
        command += ["--model", str(start), "--train", str(train), "--valid", str(valid), "--output", str(output)]
        for name in ("limit", "valid_limit", "epochs", "tokens"):
            if getattr(options, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        command += ["--bf16"] * options.bf16
        failed |= subprocess.run(command, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}).returncode != 0
    found = {
        stack: json.loads(path.read_text()) for stack in STACKS if (path := options.folder / stack / "result.json").exists()
    }
    if found:
        write_text(options.output / f"{options.task}.md", table(found, options))
        print(table(found, options))
    return int(failed)


def table(found: dict[str, dict], options: argparse.Namespace) -> str:
    """The rows in Markdown, with the drop against FP32."""
    reference = found.get("float", {}).get("accuracy")
    sentences = next(iter(found.values()))["sentences"]
    machine = describe_machine()
    lines = [
        "# Language: MiniLM-L6 on film reviews",
        "",
        f"`python -m benchmarks.tasks {options.task}`; {machine['cpu']}, {machine['cores']} cores.",
        "",
        f"all-MiniLM-L6-v2, fine-tuned on {sentences} sentences of film reviews to tell positive from negative, in "
        f"{options.epochs or 2} epoch(s) of AdamW for each row; compression starts from the fine-tuned FP32 model and trains "
        "as long again. Accuracy: of the emitted file in OpenVINO (INFERENCE_PRECISION_HINT=f32), on sentences held out in "
        "blocks of 100 that follow one another. One seed.",
        "",
        "| | accuracy in OpenVINO | drop, points | file, MB |",
        "|---|---:|---:|---:|",
    ]
    for stack, row in found.items():
        drop = "" if reference is None or stack == "float" else f"{reference - row['accuracy']:.2f}"
        lines.append(f"| {STACKS[stack]} | {row['accuracy']:.2f}% | {drop} | {row['bytes'] / 1e6:.1f} |")
    return "\n".join(lines) + "\n"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=["language"])
    parser.add_argument("--quick", action="store_true", help="a few steps of a few sentences: does everything run?")
    parser.add_argument("--only", nargs="+", choices=STACKS, default=list(STACKS), metavar="STACK")
    parser.add_argument("--limit", type=int, help="of the sentences to train on")
    parser.add_argument("--valid-limit", type=int, help="of those to measure on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--bf16", action="store_true", help="train in mixed precision")
    parser.add_argument("--folder", type=Path, help="of data, checkpoints, files and finished rows")
    parser.add_argument("--output", type=Path, help="folder of the table")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else {}).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.folder = options.folder or ROOT / "out" / ("tasks-quick" if options.quick else "tasks") / options.task
    options.output = options.output or ROOT / ("out/benchmarks" if options.quick else "benchmarks/results")
    return options


if __name__ == "__main__":
    sys.exit(main())
