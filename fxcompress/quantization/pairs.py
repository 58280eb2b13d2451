"""Neighbouring weights whose products with bytes fit 16 bits, in which x86 CPUs without VNNI add them up.

The instruction VPMADDUBSW (AVX2, AVX512) multiplies unsigned bytes by signed ones, and adds up every two neighbouring products
in 16 bits that saturate: 255 * 127 + 255 * 127 does not fit, and comes out too small. What fits whatever the activations are
is two weights of one sign that add up to no more than 128 steps. A grid of 7 bits grants that; but few neighbours are both
large, so a channel's step seldom has to be twice as wide as with 8 bits.

Neighbours are inputs 0 and 1, 2 and 3, and so on, place by place of a kernel. Where the number of inputs is odd, runtimes
differ in where a place ends, and any two that follow one another count.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxcompress.ir.dialect import resolve
from fxcompress.ir.signature import argument
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets.table import Weighted

LARGEST = 128
"""Steps that two neighbours of one sign add up to, at most: 255 times as much is the most that 16 bits hold."""

_LINEAR = resolve("linear")
_VALUES = 2**20  # that are looked at together


def adds_up_pairs(node: fx.Node, weight: fx.Node, how: Weighted) -> bool:
    """Whether products with the numbers of `weight` are added up in pairs by `node`, whose weight is found by `how`.

    Neither are rows of a table, which nothing else reads, nor the places of a depthwise convolution's kernels.
    """
    if how.data is None:
        return len(weight.users) > 1
    channels, inputs = weight.meta["val"].shape[:2]
    return node.target is _LINEAR or inputs > 1 or channels == 1 or argument(node, "groups") != channels


@torch.no_grad()
def spread_pairs(quantizer: Quantizer, weight: Tensor) -> None:
    """Make the steps of `quantizer` wider, channel by channel, until no pair of `weight` is beyond `LARGEST`."""
    while (beyond := (sums := pair_sums(quantizer, quantizer.integers(weight))) > LARGEST).any():
        wider = torch.where(beyond, (sums / LARGEST).clamp(min=1 + 2**-8), 1.0)
        quantizer.set_grid(quantizer.scale * wider, quantizer.zero_point, quantizer.signed)


def pair_sums(quantizer: Quantizer, integers: Tensor) -> Tensor:
    """The largest sum of two neighbours of one sign, for each scale of `quantizer`; 0 where its grid has no pairs.

    Args:
        integers: of a weight; its inputs are along the first axis that is not the channels'.
    """
    spec = quantizer.spec
    if not spec.pairs or spec.bits < 8 or spec.group_size is not None or not quantizer.signed or integers.dim() < 2:
        return torch.zeros_like(quantizer.scale)
    if spec.channel_axis is not None:
        return _by_channel(integers, spec.channel_axis)
    return torch.maximum(*(_by_channel(integers, axis).max() for axis in (0, 1)))


def _by_channel(integers: Tensor, axis: int) -> Tensor:
    places = integers.movedim(axis, 0).movedim(1, -1)
    rows, step = places.flatten(1), 1 if places.shape[-1] % 2 else 2
    if rows.shape[1] == 1:
        return torch.zeros(len(rows))
    return torch.cat([_largest(part.float(), step) for part in rows.split(max(1, _VALUES // rows.shape[1]))])


def _largest(rows: Tensor, step: int) -> Tensor:
    """Of two neighbours, the first of which is every `step`-th."""
    signed = rows.clamp(min=0), -rows.clamp(max=0)
    return torch.maximum(*((one[:, :-1:step] + one[:, 1::step]).amax(1) for one in signed))
