"""What commands print for programs that read it."""

from __future__ import annotations

import json
from typing import Any


def print_json(told: dict[str, Any]) -> None:
    """Print `told`, and nothing but JSON: paths and types are text."""
    print(json.dumps(told, indent=2, default=str, allow_nan=False))
