"""What every parser returns and raises, and how large what it reads may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str | int, ...]

LARGEST_FILE = 4_000_000
"""Bytes. The largest configurations list a bit width for every layer, in some tens of kilobytes."""

MOST_VALUES = 200_000
"""Values, counted again wherever an alias repeats them: a few lines of YAML can mean billions."""

DEEPEST = 60
"""Lists and dicts inside one another."""


@dataclass(frozen=True)
class Parsed:
    """Plain data, and the line of each key."""

    value: Any
    lines: Mapping[Key, int]


class ParseProblem(Exception):
    """A text is not well formed, or too large."""

    def __init__(self, text: str, line: int):
        super().__init__(text)
        self.text, self.line = text, line
