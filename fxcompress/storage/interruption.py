"""Signals while files are written: they leave nothing behind, and never come between two renames."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

unfinished: set[Path] = set()
"""The folders that are written into."""


@contextmanager
def removed_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, where it would end the process at once, remove what is `unfinished` before it does.

    In another thread than the main one, and where the program handles SIGTERM itself, nothing changes.
    """
    if not _is_main() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _end)
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    for folder in list(unfinished):
        shutil.rmtree(folder, ignore_errors=True)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def deferred() -> Iterator[None]:
    """Let SIGTERM and SIGINT come after the block, not in it."""
    if not _is_main():
        yield
        return
    came: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    try:
        for kind in kinds:
            signal.signal(kind, lambda number, frame: came.append(number))
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler if handler is not None else signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
