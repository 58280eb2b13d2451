"""Numbers with their units, as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def readable_bytes(count: float) -> str:
    """`count` bytes for people: ``11.7 MB``, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def readable_decibels(value: float | None) -> str:
    if value is None:
        return "-"
    return "same bits" if math.isinf(value) and value > 0 else f"{value:.1f}"


def listed(names: Sequence[str]) -> str:
    """The names of layers, the first three where there are many."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more layers"
