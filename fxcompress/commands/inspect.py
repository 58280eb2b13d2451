"""`fxcompress inspect`: what an ONNX file holds."""

from __future__ import annotations

import argparse

from rich.console import Console

from fxcompress.commands.output import print_json
from fxcompress.conformance.counting import integer_kernels
from fxcompress.emit.inspect import inspect_onnx, plain_summary


def run(arguments: argparse.Namespace, console: Console) -> None:
    summary, counted = inspect_onnx(arguments.file), integer_kernels(arguments.file)
    if arguments.json:
        print_json({**plain_summary(arguments.file), "kernels": counted})
        return
    told = f"{summary}\nkernels       {counted}" if counted else str(summary)
    console.print(told, soft_wrap=True, highlight=False, markup=False)
