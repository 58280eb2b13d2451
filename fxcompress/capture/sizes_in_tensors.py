"""Arithmetic of sizes that a model does in tensors, as in ``torch.div(x.shape[1], 4, rounding_mode="floor")``, traced as sizes.

torch.export knows nothing of the number in such a tensor: where it is a size again, that is one of its own, which no check of
the model can compare with others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.overrides import TorchFunctionMode

_NUMBERS = int | torch.SymInt

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floor_divide": operator.floordiv,
    **{name: getattr(operator, name) for name in ("__add__", "__sub__", "__mul__", "__floordiv__")},
    "__radd__": operator.add,
    "__rmul__": operator.mul,
    "__rsub__": lambda one, other: other - one,
    "__rfloordiv__": lambda one, other: other // one,
}


class SizesInTensors(TorchFunctionMode):
    """In this mode a fake tensor that is computed from sizes alone knows which size it is, which its `item()` gives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        compute = _operation(func, kwargs)
        if compute is None or len(args) != 2 or not isinstance(result, FakeTensor) or result.dim() or not _is_whole(result):
            return result
        numbers = [_size(one) for one in args]
        if all(one is not None for one in numbers) and any(isinstance(one, torch.SymInt) for one in numbers):
            result.item_memo = compute(*numbers)  # None, where it is not known
        return result


def _operation(func: Any, kwargs: dict[str, Any]) -> Callable[[Any, Any], Any] | None:
    """What `func` does with two whole numbers."""
    name = getattr(func, "__name__", "")
    if name == "div" and kwargs.keys() == {"rounding_mode"}:
        return {"floor": operator.floordiv, "trunc": _truncated}.get(kwargs["rounding_mode"])
    return None if kwargs else _ARITHMETIC.get(name)


def _truncated(one: Any, other: Any) -> Any:
    return one // other if statically_known_true(one >= 0) and statically_known_true(other > 0) else None


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _size(one: Any) -> Any:
    """The whole number that `one` is or holds; None where it is not known."""
    if isinstance(one, FakeTensor):
        return one.item_memo
    return one if isinstance(one, _NUMBERS) and not isinstance(one, bool) else None
