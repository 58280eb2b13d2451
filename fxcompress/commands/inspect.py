"""`fxcompress inspect`: what an ONNX file holds."""

from __future__ import annotations

import argparse

from rich.console import Console

from fxcompress.conformance.counting import integer_kernels
from fxcompress.emit.inspect import inspect_onnx


def run(arguments: argparse.Namespace, console: Console) -> None:
    summary = inspect_onnx(arguments.file)
    counted = integer_kernels(arguments.file)
    told = f"{summary}\nkernels       {counted} read integers" if counted else str(summary)
    console.print(told, soft_wrap=True, highlight=False, markup=False)
