"""Looking at a tensor cheaply: its extremes, and some of its values, read in the order in which they lie in memory."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

PER_TENSOR, PER_CHANNEL = 2**13, 2**10
"""Values of one sample that a histogram takes in: of the whole sample, or of each of its channels."""

GOLDEN = 0.6180339887498949


def extremes(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest of all values: float32, shape ``[]``, or ``[x.shape[axis]]``. NaN where any value is."""
    if axis is None:
        low, high = torch.aminmax(_in_memory_order(x))
        return low.float(), high.float()
    others = [d for d in range(x.dim()) if d != axis % x.dim()]
    return x.amin(others).float(), x.amax(others).float()


def sample_extremes(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Those of each sample (index of dimension 0): shape ``[samples]``, or ``[samples, channels]``."""
    if axis is None:
        # One sample at a time: torch.aminmax over one dimension takes twenty times as long as over a whole tensor.
        bounds = [torch.aminmax(_in_memory_order(sample)) for sample in x]
        return torch.stack([b.min for b in bounds]).float(), torch.stack([b.max for b in bounds]).float()
    others = [d for d in range(1, x.dim()) if d != axis % x.dim()]
    return (x.amin(others).float(), x.amax(others).float()) if others else (x.float(), x.float())


def _in_memory_order(x: Tensor) -> Tensor:
    """A reduction over strided memory takes ten times as long."""
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))


def subsample(x: Tensor, axis: int | None) -> Tensor:
    """Some values of each sample of `x`, float32: shape ``[1, values]``, or ``[x.shape[axis], values]``.

    The places are spread evenly over the sample and depend on its shape alone, so a sample gives the same values
    whichever batch it comes in and however it lies in memory. A small sample gives all of its values.
    """
    x = x.unsqueeze(1) if axis is None else x.movedim(axis, 1)
    samples, channels, *rest = x.shape
    limit = PER_TENSOR if axis is None else PER_CHANNEL
    places = _places(tuple(rest), x.stride()[2:], limit)
    offsets = (torch.arange(channels)[:, None] * x.stride(1) + places).flatten()
    span = int(offsets.max()) + 1
    taken = x.as_strided((samples, span), (x.stride(0), 1)).index_select(1, offsets)
    return taken.view(samples, channels, -1).transpose(0, 1).reshape(channels, -1).float()


@lru_cache(maxsize=256)
def _places(shape: tuple[int, ...], strides: tuple[int, ...], limit: int) -> Tensor:
    """Offsets in memory of at most `limit` elements, ascending: one from each of so many equal stretches.

    Where in its stretch follows the golden ratio, so that no period of the tensor (a row, a channel) is favoured.
    """
    size = math.prod(shape)
    if size <= limit:
        chosen = torch.arange(size)
    else:
        index = torch.arange(limit, dtype=torch.float64)
        chosen = ((index + index * GOLDEN % 1) * (size / limit)).long().clamp(max=size - 1)
    offsets = torch.zeros_like(chosen)
    for index, stride in zip(torch.unravel_index(chosen, shape) if shape else (), strides):
        offsets += index * stride
    return offsets.sort().values
