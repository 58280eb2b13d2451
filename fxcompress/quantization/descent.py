"""The innermost loop of the descent over a weight's integers: in C where there is a compiler, else in torch.

Torch goes over every column by itself, in seven operations of a few thousand numbers, which take longer to begin than to run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fxcompress.quantizers.native import compiled

SOURCE = Path(__file__).with_name("descent.c")

_POINTER, _SIZE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = [_POINTER] * 5 + [_SIZE] * 3 + [_REAL] * 2 + [ctypes.c_int]


def settle(within: Tensor, slopes: Tensor, newton: Tensor, steps: Tensor, integers: Tensor, levels: tuple[int, int]) -> None:
    """Settle some columns one after the other. `slopes` and `integers` are updated.

    Args:
        within: the columns' part of the second moment, [groups, columns, columns].
        slopes, newton, steps, integers: half the gradient of the error, what an integer changes for it, the scale, and what
            stands, each [groups, columns, rows].
        levels: lowest and highest integer.
    """
    tensors = within, slopes, newton, steps, integers
    function = _load() if all(one.dtype is torch.float32 and one.device.type == "cpu" for one in tensors) else None
    if function is None:
        settle_in_torch(*tensors, levels)
    else:
        assert all(one.is_contiguous() for one in tensors)
        function(*(one.data_ptr() for one in tensors), *slopes.shape, *levels, torch.get_num_threads())


def settle_in_torch(
    within: Tensor, slopes: Tensor, newton: Tensor, steps: Tensor, integers: Tensor, levels: tuple[int, int]
) -> None:
    """What `settle` does, on any device and in any precision."""
    columns = zip(integers.split(1, 1), slopes.split(1, 1), newton.split(1, 1), steps.split(1, 1), within.split(1, 2))
    for place, (chosen, slope_of_it, newton_of_it, step, felt) in enumerate(columns, 1):
        best = torch.addcmul(chosen, slope_of_it, newton_of_it, value=-1).round_().clamp_(*levels)
        change = (best - chosen).mul_(step)
        chosen.copy_(best)
        slopes[:, place:].baddbmm_(felt[:, place:], change)


@cache
def _load() -> Callable[..., None] | None:
    return compiled(SOURCE, _settle_in, "weights are rounded")


def _settle_in(library: ctypes.CDLL) -> Callable[..., None]:
    function = library.settle_float
    function.argtypes, function.restype = _ARGUMENTS, None
    return function
