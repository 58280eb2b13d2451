"""`fxcompress inspect`: what an ONNX file holds."""

from __future__ import annotations

import argparse

from rich.console import Console

from fxcompress.emit.inspect import inspect_onnx


def run(arguments: argparse.Namespace, console: Console) -> None:
    console.print(str(inspect_onnx(arguments.file)), soft_wrap=True, highlight=False, markup=False)
