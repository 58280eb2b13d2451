"""Operations that a trace passes through otherwise than by their kernels: by the shapes of their results, or written out."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch._C import DispatchKey
from torch._ops import OpOverload

from fxcompress.capture.replaced import replaced

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


_FLEXIBLE = "torch.nn.attention.flex_attention"


@contextlib.contextmanager
def flexible_attention_written_out() -> Iterator[None]:
    """In this context `flex_attention` is products, a softmax, and what the model's own function does to each score.

    torch would have it compiled, which it cannot be while calls are watched, and refuses gradients on a CPU.
    """
    flexible = importlib.import_module("torch._higher_order_ops.flex_attention")
    called = importlib.import_module(_FLEXIBLE)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return flexible.math_attention(*args, **kwargs)

    written_out = {
        (type(flexible.flex_attention), "__call__"): call,
        (called, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"): True,
        (called, "_validate_device"): lambda *tensors: None,
    }
    with replaced(written_out):
        yield


@contextlib.contextmanager
def scores_all_at_once() -> Iterator[None]:
    """In this context functions of one score are given all scores and places that broadcast, since no graph has a vmap.

    Where that is something else, as for ``table[batch][head]``, the graph is not the model, and the comparison says so.
    """

    def of_all_places(function: Callable[..., Any], prefix: Any = (), **others: Any) -> Callable[..., Any]:
        def of_all(*given: Any) -> Any:
            scores, places, rest = given[: len(prefix)], given[len(prefix) : len(prefix) + 4], given[len(prefix) + 4 :]
            along = [place.reshape([-1, *[1] * (3 - axis)]) for axis, place in enumerate(places)]
            return function(*scores, *along, *rest).expand([place.shape[0] for place in places])

        return of_all

    with replaced({(importlib.import_module(_FLEXIBLE), "_vmap_for_bhqkv"): of_all_places}):
        yield
