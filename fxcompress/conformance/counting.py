"""What a runtime makes of a file, counted in its own execution graph."""

from __future__ import annotations

import os
from pathlib import Path

from fxcompress.conformance.client import CHILD, FileProblem

SECONDS = 120.0
"""A file that OpenVINO has not compiled by then is not counted."""


def integer_kernels(path: str | os.PathLike[str]) -> str:
    """How many of the convolutions and matrix products of the file at `path` OpenVINO runs in integers, as text.

    Empty where it is not installed, or does not load the file.
    """
    try:
        kernels, integer = CHILD.ask("layers", str(Path(path).resolve()), seconds=SECONDS)
    except FileProblem:
        return ""
    return f"{integer} of {kernels} in OpenVINO"
