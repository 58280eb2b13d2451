"""The user's own source line: the one to name where torch or this package stands between it and what happens."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from types import FrameType

import torch

_OTHERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}", "<")


def is_users(frame: FrameType) -> bool:
    """Whether `frame` runs code outside torch and the capture."""
    return not frame.f_code.co_filename.startswith(_OTHERS)


def is_running(frame: FrameType) -> bool:
    """Whether what is called now is called, by whatever is between, by the code in `frame`."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None


def calling_line() -> str:
    """The innermost of those that are running, as `quoted`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_users(frame):
        frame = frame.f_back
    return quoted(frame, frame.f_lineno)


def quoted(frame: FrameType, number: int) -> str:
    """Line `number` of the code that `frame` runs, as ``path:number: text``."""
    path = frame.f_code.co_filename
    return f"{path}:{number}: {linecache.getline(path, number).strip()}"
