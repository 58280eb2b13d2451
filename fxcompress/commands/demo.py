"""`fxcompress demo`: train, compile, write, run and compare, and show it all on one screen."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import fxcompress
from fxcompress.commands.output import print_json
from fxcompress.demo import digits as demo
from fxcompress.report.progress import Show, shown
from fxcompress.report.units import readable_bytes
from fxcompress.storage.atomic import check_writable, make_folder
from fxcompress.views.drawing import draw

CALIBRATION_IMAGES = 300


def run(arguments: argparse.Namespace, console: Console) -> None:
    demo.require_extras()
    folder = make_folder(arguments.out)
    float_file, integer_file = (check_writable(folder / name) for name in ("digits-fp32.onnx", "digits-int8.onnx"))
    console.print("[bold]Handwritten digits[/]: a residual network, from training to INT8\n", highlight=False, markup=True)

    digits = demo.load_digits()
    with demo.one_thread():
        with _step(console, "training", f"trained on {len(digits.train_images):,} images") as show:
            model = demo.train(digits, arguments.epochs, show)
        with _step(console, "compiling", f"compiled to INT8, calibrated on {CALIBRATION_IMAGES} of them") as show:
            data = digits.train_images[:CALIBRATION_IMAGES].split(10)
            compiled = fxcompress.compile(model, data=data, progress=show)
        with _step(console, "writing", "wrote both models and the pictures"):
            fxcompress.compile(model, [], example_inputs=digits.train_images[:2]).to_onnx(float_file)
            compiled.to_onnx(integer_file)
            compiled.dump(folder / "graphs")
            picture = draw(compiled, folder / "quantized.svg", title="Handwritten digits, INT8")
    with _step(console, "running", f"ran both on {len(digits.test_images)} other images, held out") as show:
        measured = demo.measure([float_file, integer_file], digits.test_images, progress=show)

    if arguments.json:
        same = float((measured[0].answers == measured[1].answers).mean())
        files = {str(path): {"bytes": m.bytes, "seconds": m.seconds} for path, m in zip((float_file, integer_file), measured)}
        print_json({**compiled.report.plain(), "files": files, "same_answers": same})
        return
    console.print()
    console.print(compiled.report.table())
    console.print()
    console.print(_comparison(measured[0], measured[1], digits.test_labels.numpy()))
    how = f"OpenVINO on {demo.processor()}, float layers in float32 (f32 hint) in both;"
    for line in (how, "medians of 100 runs each, taken in turn"):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print(_next_steps(folder, integer_file, picture), soft_wrap=True, highlight=False, markup=True)


@contextmanager
def _step(console: Console, doing: str, done: str) -> Iterator[Show]:
    """What is `doing` while the step lasts, and then one line that says what was `done`, and how long it took."""
    started = time.perf_counter()
    with shown(console, doing) as show:
        yield show
    seconds = time.perf_counter() - started
    console.print(f"[green]✓[/] {done} [dim]{seconds:.1f} s[/]", highlight=False, markup=True)


def _comparison(before: demo.Measurement, after: demo.Measurement, labels: np.ndarray) -> Table:
    table = Table()
    table.add_column("")
    for name in ("FP32", "INT8", "gain"):
        table.add_column(name, justify="right")
    right = [(m.answers == labels).sum() for m in (before, after)]
    table.add_row("accuracy", *(f"{r / len(labels):.2%}" for r in right), f"{right[1] - right[0]:+d} images")
    for batch in before.seconds:
        name = "latency, 1 image" if batch == 1 else f"latency, {batch} images"
        slow, fast = before.seconds[batch], after.seconds[batch]
        table.add_row(
            name, f"{slow * 1e3:.3f} ms", f"{fast * 1e3:.3f} ms", Text.from_markup(_times(slow / fast, "faster", "slower"))
        )
    sizes = before.bytes, after.bytes
    table.add_row("file", *map(readable_bytes, sizes), Text.from_markup(_times(sizes[0] / sizes[1], "smaller", "larger")))
    same = (before.answers == after.answers).mean()
    table.add_row("same answer as FP32", "", f"{same:.2%}", "")
    return table


def _times(ratio: float, more: str, less: str) -> str:
    return f"[bold]{ratio:.1f}x[/] {more}" if ratio >= 1 else f"{1 / ratio:.1f}x {less}"


def _next_steps(folder: Path, integer_file: Path, picture: Path) -> str:
    return "\n".join(
        [
            "",
            "[bold]What was made[/]",
            f"  {escape(str(integer_file))}  runs in OpenVINO and onnxruntime",
            f"  {escape(str(picture))}  the network with its quantizers; open it in a browser",
            f"  {escape(str(folder / 'graphs'))}  the graph after every pass, as text, DOT, GraphML and SVG",
            "",
            "[bold]What next[/]",
            f"  fxcompress inspect {escape(str(integer_file))}",
            "  fxcompress compile package.module:function --data folder/of/images",
            "  fxcompress --help",
        ]
    )
