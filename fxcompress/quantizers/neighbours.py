"""Neighbouring numbers whose products with bytes fit 16 bits, in which x86 CPUs without VNNI add them up.

The instruction VPMADDUBSW (AVX2, AVX512) multiplies unsigned bytes by signed ones, and adds up every two neighbouring products
in 16 bits that saturate: 255 * 127 + 255 * 127 does not fit, and comes out too small. What fits whatever the unsigned bytes
are is two signed numbers of one sign that add up to no more than 128 steps. A signed grid of 7 bits with zero in its middle
grants that; but few neighbours are both large, so a step seldom has to be twice as wide as with 8 bits.

Neighbours are numbers 0 and 1, 2 and 3, and so on, of those that a sum takes in: of a kernel, place by place. Where they are
odd in number, runtimes differ in where a place ends, and any two that follow one another count; so they do once inputs that no
filter reads are left out, which a file may be without.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fxcompress.quantizers.native import compiled, holds_floats
from fxcompress.quantizers.ops import along

SOURCE = Path(__file__).with_name("neighbours.c")

LARGEST = 128
"""Steps that two neighbours of one sign add up to, at most: 255 times as much is the most that 16 bits hold."""

_NO_MEMORY = 2  # what the kernel returns
_FEW = 4  # filters, of which one at least reads every input that is not masked, nearly always
_MARGIN = 2**-7  # of what division and multiplication round


def answers_at_once(x: Tensor) -> bool:
    """Whether a number of `x` can be asked for: no device is to be waited for, and no compiler stops there."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def widening(sums: Tensor, steps: Tensor) -> Tensor:
    """How many times as wide `steps` must be for neighbours that add up to `sums`: 1 where they are wide enough.

    Two numbers that add up to less than `LARGEST` do not add up to more once each is rounded, by less than half.
    """
    return torch.where(sums > steps * (LARGEST - _MARGIN), sums / (steps * (LARGEST - 2 * _MARGIN)), 1.0)


Grid = tuple[Tensor, Tensor, tuple[int, int]]
"""Scale and zero point, one or one a channel, and the levels."""


def weight_sums(weight: Tensor, channel_axis: int | None, grid: Grid | None = None) -> Tensor:
    """The largest sum of two neighbours in each channel of `weight`, without its sign; in all of it where that is None.

    The inputs are along the first axis that is not the channels'. With a `grid` they are sums of its integers.
    """
    if channel_axis == 0 and (found := _in_c(weight, grid)) is not None:
        return found
    weight = weight if grid is None else _integers(weight, channel_axis, grid)
    if channel_axis is not None:
        return _by_channel(weight, channel_axis)
    return torch.maximum(*(_by_channel(weight, axis).amax() for axis in (0, 1)))


def _integers(weight: Tensor, axis: int | None, grid: Grid) -> Tensor:
    """The integers that `weight` is on `grid`, less their zero point."""
    scale, point = (along(one, axis, 0, weight.shape) for one in grid[:2])
    low, high = grid[2]
    return torch.div(weight, scale).round_().add_(point).clamp_(low, high).sub_(point)


def _in_c(weight: Tensor, grid: Grid | None) -> Tensor | None:
    """The sums in each row of `weight`, in one pass over it; None where there is no kernel that could."""
    plain = [weight, *(() if grid is None else grid[:2])]
    if torch.compiler.is_compiling() or not weight.numel() or not all(map(holds_floats, plain)):
        return None
    if (function := _load()) is None:
        return None
    sums, (low, high) = weight.new_empty(len(weight)), (0, 0) if grid is None else grid[2]
    scale, point = (None, None) if grid is None else (one.data_ptr() for one in grid[:2])
    sizes = len(weight), weight.shape[1], weight[0, 0].numel()
    failed = function(weight.data_ptr(), scale, point, low, high, *sizes, sums.data_ptr(), torch.get_num_threads())
    if failed == _NO_MEMORY:
        raise MemoryError("no memory for the integers of a weight")
    return None if failed else sums


@cache
def _load() -> Callable[..., int] | None:
    return compiled(SOURCE, _largest_sums, "steps of weights are widened")


def _largest_sums(library: ctypes.CDLL) -> Callable[..., int]:
    pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    function = library.largest_sums
    function.argtypes, function.restype = [pointer] * 3 + [real] * 2 + [size] * 3 + [pointer, ctypes.c_int], ctypes.c_int
    return function


def _places(weight: Tensor, axis: int) -> Tensor:
    """`weight` as [channels, inputs, places]."""
    return weight.movedim(axis, 0).flatten(2) if weight.dim() > 2 else weight.movedim(axis, 0).unsqueeze(2)


def _by_channel(weight: Tensor, axis: int) -> Tensor:
    places = _places(weight, axis)
    found = _largest(places.mT.reshape(len(places), -1, 1), every=1) if places.shape[1] % 2 else _largest(places)
    if answers_at_once(places) and (_read(places[:_FEW]).all() or _read(places).all()):
        return found
    read = _read(places)
    return torch.where(read.all(), found, torch.maximum(found, _largest_once_removed(places, read)))


def _read(places: Tensor) -> Tensor:
    """The inputs that are not masked: some number for them is not zero."""
    return (places != 0).any(2).any(0)


def _largest_once_removed(places: Tensor, read: Tensor) -> Tensor:
    """As `_largest`, where inputs that are not `read` (masked ones) may be removed, so that others become neighbours."""
    left = places[:, (~read).to(torch.uint8).argsort(stable=True)]
    last = left.index_select(1, (read.sum() - 1).clamp(min=0).reshape(1))  # is followed by the first of the next place
    ends = torch.stack([last[:, 0, :-1], left[:, 0, 1:]], 1)
    within = torch.maximum(_largest(left[:, : len(read) // 2 * 2]), _largest(left[:, 1 : 1 + (len(read) - 1) // 2 * 2]))
    return torch.maximum(within, _largest(ends))


def _largest(numbers: Tensor, every: int = 2) -> Tensor:
    """Of two that follow one another along the second of three axes, from each or each second on, by index of the first."""
    numbers = numbers.float()
    sums = (numbers[:, :-1:every] + numbers[:, 1::every]).flatten(1)
    if not sums.shape[1]:
        return numbers.new_zeros(len(numbers))
    return torch.maximum(-sums.amin(1), sums.amax(1))  # aminmax takes ten times as long
