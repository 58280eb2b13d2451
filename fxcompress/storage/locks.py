"""Locks on folders, which the system releases when a process ends, however it ends. Nothing lies on the disk for them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: there, what was killed is not swept
    fcntl = None  # type: ignore[assignment]


SECONDS = 30
"""What a holder of a lock may take; nothing here takes one."""


def try_lock(folder: Path, seconds: float = 0) -> int | None:
    """A lock on `folder`, for `unlock`; None where another holds it for `seconds` more, or folders cannot be locked."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if not isinstance(error, BlockingIOError) or time.monotonic() >= end:
                os.close(descriptor)
                return None
        time.sleep(0.01)


def unlock(lock: int | None) -> None:
    """Release what `try_lock` gave."""
    if lock is not None:
        os.close(lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The block, while no other process or thread is in one for `folder`, where folders can be locked.

    One that holds the lock for longer than `SECONDS`, whoever it is, is not waited for: nobody's file hangs on another's.
    """
    lock = try_lock(folder, SECONDS)
    try:
        yield
    finally:
        unlock(lock)
