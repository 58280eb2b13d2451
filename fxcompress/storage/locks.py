"""Locks on folders, which the system releases when a process ends, however it ends. Nothing lies on the disk for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: there, what was killed is not swept
    fcntl = None  # type: ignore[assignment]


def try_lock(folder: Path) -> int | None:
    """A lock on `folder`, for `unlock`; None where another holds it, or folders cannot be locked."""
    return _lock(folder, wait=False)


def unlock(lock: int | None) -> None:
    """Release what `try_lock` gave."""
    if lock is not None:
        os.close(lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The block, while no other process or thread is in one for `folder`, where folders can be locked."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        unlock(lock)


def _lock(folder: Path, wait: bool) -> int | None:
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
