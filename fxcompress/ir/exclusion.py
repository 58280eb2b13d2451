"""One thread at a time where torch is not safe in several: tracing changes what all threads share while it lasts."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_lock = threading.RLock()


def one_thread_at_a_time(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`function`, while no other thread is in a function that is decorated so; it may call others that are."""

    @functools.wraps(function)
    def alone(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _lock:
            return function(*args, **kwargs)

    return alone
