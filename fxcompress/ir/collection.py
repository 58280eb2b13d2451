"""Garbage collection, put off while a graph is made: its objects all live until then, and going through them frees nothing."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collected_later() -> Iterator[None]:
    """In this context Python does not look for cycles of objects that nobody holds any more; all else is freed at once.

    A trace of a thousand layers makes a million objects, so that Python goes through all there are again and again, which
    takes a sixth of the time of a capture. What is put off are objects of the trace, no tensors' memory: those are fake.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
