"""Operations that a trace passes through by the shapes of their results alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch._C import DispatchKey
from torch._ops import OpOverload

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextlib.contextmanager
def traced_by(kernels: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """In this context, fake tensors pass through each operation by the function given for it."""
    saved = {operator: dict(operator.py_kernels) for operator in kernels}
    for operator, kernel in kernels.items():
        operator.py_kernels.update(dict.fromkeys(_KEYS, kernel))  # type: ignore[arg-type]
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, before in saved.items():
            operator.py_kernels.clear()
            operator.py_kernels.update(before)
            operator._dispatch_cache.clear()
