"""Models that switch autocast on in their forward: their graph computes in the precision of their weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from fxcompress.capture.replaced import replaced


@contextlib.contextmanager
def without_autocast() -> Iterator[list[str]]:
    """In this context, and in this thread, `torch.autocast` does nothing; collects notes of where it would have."""
    kind, here, told = torch.autocast, threading.get_ident(), []
    enter, leave = kind.__enter__, kind.__exit__

    def entered(region: Any) -> Any:
        if threading.get_ident() != here:
            return enter(region)
        note = f"autocast to {str(region.fast_dtype).removeprefix('torch.')} in forward is left out: the graph computes in full"
        if region._enabled and note not in told:
            told.append(note)
        return region

    def left(region: Any, *problem: Any) -> Any:
        return leave(region, *problem) if threading.get_ident() != here else None

    with replaced({(kind, "__enter__"): entered, (kind, "__exit__"): left}):
        yield told
