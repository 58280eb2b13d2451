"""A row of a benchmark from a process of its own: what kills it, or never ends, costs that row alone."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = Any


def run_apart(
    examine: Callable[[Case, Path], None], case: Case, limit: float, otherwise: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], str, bool]:
    """What ``examine(case, path)`` leaves at its path as JSON, how its process ended in words, and whether it failed.

    Args:
        limit: seconds, after which it is killed.
        otherwise: the row where it leaves nothing, of the path.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        process = multiprocessing.get_context("fork").Process(target=examine, args=(case, path))
        process.start()
        process.join(limit)
        late = process.is_alive()
        process.kill()
        process.join()
        row = json.loads(path.read_text()) if path.exists() else otherwise(path)
    end = f"took longer than {limit:.0f} s" if late else f"ended with {process.exitcode}"
    return row, end, bool(process.exitcode)
