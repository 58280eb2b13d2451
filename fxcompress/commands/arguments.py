"""What is given on the command line, read from its text; an error says what to write. Nothing here waits for torch."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds, and help is read without it
    import torch

_MOST_ELEMENTS = 2**31
_TYPES = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "complex64",
    "complex128",
]
"""Those that models take; torch has others, which it only stores."""


def path_of(text: str) -> str:
    """A path, which is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("a path is not empty")
    return text


def positive_of(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def names_of(text: str) -> list[str]:
    """Names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names; write it as a,b")
    return names


def shape_of(text: str) -> tuple[list[int], torch.dtype]:
    """Sizes with commas between them, and the type behind a colon."""
    import torch

    sizes, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    if not isinstance(dtype, torch.dtype) or str(dtype).removeprefix("torch.") not in _TYPES:
        raise argparse.ArgumentTypeError(f"{name!r} is not a type of inputs; write {', '.join(_TYPES)}")
    try:
        shape = [positive_of(size.strip()) for size in sizes.split(",")]
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a shape; write it as 1,3,224,224") from None
    return _bounded(shape, text), dtype


def _bounded(shape: list[int], text: str) -> list[int]:
    if math.prod(shape) > _MOST_ELEMENTS:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} has more elements than fit into memory, more than {_MOST_ELEMENTS:,}")
    return shape


def size_of(text: str) -> tuple[int, int]:
    """A height and a width, which are the same where there is one number."""
    sizes = _bounded([positive_of(size.strip()) for size in text.split(",")], text)
    if len(sizes) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 224, or height,width")
    return sizes[0], sizes[-1]


def numbers_of(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        numbers = tuple(float(number) for number in text.split(","))
        if not all(map(math.isfinite, numbers)):
            raise ValueError
        return numbers
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers; write it as 0.485,0.456,0.406") from None
