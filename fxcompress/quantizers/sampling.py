"""Looking at a tensor cheaply: its extremes, and some of its values, read in the order in which they lie in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PER_TENSOR, PER_CHANNEL = 2**13, 2**10
"""Values of one sample that a histogram takes in: of the whole sample, or of each of its channels."""

EXTREME = 32
"""Parts of a sample with its highest values, and with its lowest, that are taken in whole."""

TAIL = 256
"""Values on each side of a sample that are kept by sample."""

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
    x = torch.atleast_1d(x)  # one number for all samples
    if axis is None:
        # One sample at a time: torch.aminmax over one dimension takes twenty times as long as over a whole tensor.
        bounds = [torch.aminmax(_in_memory_order(sample)) for sample in x]
        return torch.stack([b.min for b in bounds]).float(), torch.stack([b.max for b in bounds]).float()
    others = [d for d in range(1, x.dim()) if d != axis % x.dim()]
    return (x.amin(others).float(), x.amax(others).float()) if others else (x.float(), x.float())


def sample_quantiles(x: Tensor, axis: int | None, shares: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The values that these shares of each sample's values lie below: shape ``[samples]``, or ``[samples, channels]``."""
    x = torch.atleast_1d(x)
    rows = x.reshape(len(x), -1) if axis is None else x.movedim(axis, 1).flatten(2)
    ranked, finite = rows.float().sort(-1).values, rows.isfinite().all(-1)
    places = [round(share * (ranked.shape[-1] - 1)) for share in shares]
    low, high = (torch.where(finite, ranked[..., place], torch.nan) for place in places)
    return low, high


def _in_memory_order(x: Tensor) -> Tensor:
    """A reduction over strided memory takes ten times as long."""
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))


def subsample(x: Tensor, axis: int | None) -> Tensor:
    """Some values of each sample of `x`, float32: shape ``[1, values]``, or ``[x.shape[axis], values]``.

    The places are spread evenly over the sample and depend on its shape alone, so a sample gives the same values
    whichever batch it comes in and however it lies in memory. A small sample gives all of its values.
    """
    x = torch.atleast_1d(x)  # one number for all samples
    x = x.unsqueeze(1) if axis is None else x.movedim(axis, 1)
    samples, channels = x.shape[:2]
    offsets, span = _offsets(tuple(x.shape[1:]), x.stride()[1:], PER_TENSOR if axis is None else PER_CHANNEL)
    taken = x.as_strided((samples, span), (x.stride(0), 1)).gather(1, offsets.expand(samples, -1))  # index_select: half as fast
    return taken.view(samples, channels, -1).transpose(0, 1).reshape(channels, -1).float()


@dataclass(frozen=True)
class Sampled:
    """Some values of a tensor, and those of another one at the same places.

    Attributes:
        values, others: float32, ``[values]``.
        count: for how many values of its sample each stands, ``[values]``; 0 where it is told twice.
        tails: the values of each sample that lie farthest out, on either side, and those of the other: ``[samples, tail]``.
    """

    values: Tensor
    others: Tensor
    count: Tensor
    tails: tuple[Tensor, Tensor]


def subsample_with_extremes(x: Tensor, other: Tensor, signed: bool) -> Sampled:
    """Values of `x`, the extremes of each sample among them, and those of `other`, of the same shape.

    Each sample is divided into parts. Those with the highest and the lowest values are taken in whole, of each other one a
    single value for all of its values.

    Args:
        signed: whether there are values below zero; if not, the lowest are not looked for.
    """
    x, other = torch.atleast_1d(x, other)  # one number for all samples
    samples, pair = len(x), [_in_memory_order_of(x, tensor).reshape(len(x), -1) for tensor in (x, other)]
    length = pair[0].shape[1] // PER_TENSOR
    if length <= 1:
        values, others = (tensor.float() for tensor in pair)
        return Sampled(values.flatten(), others.flatten(), torch.ones(values.numel()), _tails(values, others, signed))
    row, stretched = torch.arange(samples)[:, None], PER_TENSOR * length
    rest = [tensor[:, stretched:].float() for tensor in pair]
    # A part is every so many values: one pass along memory finds the extremes of them all.
    pair = [tensor[:, :stretched].view(samples, length, PER_TENSOR) for tensor in pair]
    place = ((torch.arange(PER_TENSOR, dtype=torch.float64) * GOLDEN % 1) * length).long()
    found = [[tensor[:, place, torch.arange(PER_TENSOR)].float(), left] for tensor, left in zip(pair, rest)]
    count, tails = [torch.full((samples, PER_TENSOR), float(length)), torch.ones_like(rest[0])], []
    for side, extreme in enumerate((pair[0].amax(1), -pair[0].amin(1))[: 2 if signed else 1]):
        index = extreme.float().topk(EXTREME, 1).indices
        ends = [tensor[row, :, index].float() for tensor in pair]
        outer, owed = (torch.cat([x.flatten(1), left], 1) for x, left in zip(ends, rest))
        tails.append(_tails(outer, owed, side == 1, side == 0))
        alone = count[0].gather(1, index) > 0  # not among the highest already
        count = [count[0].scatter(1, index, 0.0), *count[1:], alone[..., None].expand_as(ends[0]).float()]
        found = [[*parts, end] for parts, end in zip(found, ends)]
    values, others, weight = (torch.cat([part.flatten() for part in parts]) for parts in (*found, count))
    return Sampled(values, others, weight, (torch.cat([t[0] for t in tails], 1), torch.cat([t[1] for t in tails], 1)))


def _tails(values: Tensor, others: Tensor, signed: bool, high: bool = True) -> tuple[Tensor, Tensor]:
    """The `TAIL` highest of each row, if `high`, and the lowest, if `signed`; with those of `others`."""
    size = min(TAIL, max(values.shape[1] // 2, 1) if high and signed else values.shape[1])
    sides = [values.topk(size, 1, largest=largest).indices for largest in (True, False) if (high if largest else signed)]
    index = torch.cat(sides, 1)
    return values.gather(1, index), others.gather(1, index)


def _in_memory_order_of(x: Tensor, other: Tensor) -> Tensor:
    """`other`, of the shape of `x`, with its samples first and the rest in the order in which `x` lies in memory."""
    rest = sorted(range(1, x.dim()), key=x.stride, reverse=True)
    return other.permute(0, *rest)


@lru_cache(maxsize=256)
def _offsets(shape: tuple[int, ...], strides: tuple[int, ...], limit: int) -> tuple[Tensor, int]:
    """Offsets in memory of at most `limit` elements of each channel (index of dimension 0), and where the last of them ends."""
    channels = torch.arange(shape[0])[:, None] * strides[0]
    offsets = (channels + _places(shape[1:], strides[1:], limit)).flatten()
    return offsets, int(offsets.max()) + 1


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
