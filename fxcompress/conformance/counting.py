"""What a runtime makes of a file, counted in its own execution graph."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fxcompress.conformance.client import CHILD, FileProblem

SECONDS = 120.0
"""A file that OpenVINO has not compiled by then is not counted."""


INTEGERS = {"i8", "u8", "i4", "u4", "u1"}

Layers = Sequence[tuple[str, str, str]]
"""As `fxcompress.conformance.server` tells them: name, type of the values, type of the weights."""


def integer_kernels(path: str | os.PathLike[str]) -> str:
    """How many of the convolutions and matrix products of the file at `path` OpenVINO runs in integers, as text.

    Empty where it is not installed, or does not load the file.
    """
    try:
        layers: Layers = CHILD.ask("layers", str(Path(path).resolve()), seconds=SECONDS)
    except FileProblem:
        return ""
    unpacked = unpacked_weights(layers)
    integer = sum(values in INTEGERS for _, values, _ in layers)
    return f"{integer} of {len(layers)} in OpenVINO read integers" + (f"; {unpacked}" if unpacked else "")


def unpacked_weights(layers: Layers) -> str | None:
    """In which types those of `layers` that read floats read their weights, as text; None where none reads integers."""
    apart = [(weights, name) for name, values, weights in layers if values not in INTEGERS]
    counts = Counter(weights for weights, _ in apart)
    if not counts.keys() & INTEGERS:
        return None
    plain = [name for weights, name in apart if weights not in INTEGERS]
    told = [f"{kind} ({count})" for kind, count in sorted(counts.items()) if kind in INTEGERS]
    if plain:
        told.append(f"floats ({', '.join(plain[:3])}{f' and {len(plain) - 3} more' if len(plain) > 3 else ''})")
    return f"layers multiply floats by {', '.join(told)}"
