"""Whole numbers that a model reads out of a tensor by way of NumPy, traced as those of ``tolist()``."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode


class NumbersInArrays(TorchFunctionMode):
    """In this mode ``numpy()`` of fake whole numbers, as many as is known, is an array of Python's, which may be symbols.

    NumPy adds and slices those as it does its own.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor = args[0] if args else None
        if func is not Tensor.numpy or not isinstance(tensor, FakeTensor) or not _is_listed(tensor):
            return func(*args, **(kwargs or {}))
        numbers = tensor.tolist()
        array = np.empty(len(numbers), object)
        array[:] = numbers
        return array


def _is_listed(tensor: Tensor) -> bool:
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    return whole and tensor.dim() == 1 and isinstance(tensor.shape[0], int)
