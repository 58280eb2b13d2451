"""A convolution or linear layer as a matrix product: the rows that each of its output values is computed from."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fxcompress.ir.dialect import resolve
from fxcompress.ir.signature import argument

CONVOLUTIONS = tuple(map(resolve, ("conv1d", "conv2d", "conv3d")))
LINEAR = resolve("linear")
MATRIX_PRODUCTS = (*CONVOLUTIONS, LINEAR)


def group_count(node: fx.Node) -> int:
    """The groups of a convolution; 1 for a linear layer."""
    return 1 if node.target is LINEAR else argument(node, "groups")


def column_count(weight: Tensor) -> int:
    """How many numbers an output value is computed from, by a layer with this weight."""
    return weight[0].numel()


def weight_rows(node: fx.Node, weight: Tensor) -> Tensor:
    """The weight of `node` as matrices, one a group: ``[groups, channels of a group, columns]``."""
    return weight.reshape(group_count(node), weight.shape[0] // group_count(node), -1)


def input_patches(node: fx.Node, x: Tensor, shape: torch.Size, limit: int) -> Tensor:
    """What output values of `node` are computed from, given its input `x`: float32 ``[groups, patches, columns]``.

    Multiplied by the `weight_rows` of a weight of this `shape`, they give the layer's outputs, but for the bias.

    Args:
        limit: so many places of each sample, at most, scattered; the same for all samples, and in every call.
    """
    if node.target is LINEAR:
        return some_rows(x, limit).float()[None]
    groups, kernel = group_count(node), shape[2:]
    x = x if x.dim() > len(kernel) + 1 else x[None]
    stride, padding, dilation = (_per_dimension(node, name, len(kernel)) for name in ("stride", "padding", "dilation"))
    x = F.pad(x, [side for size in reversed(padding) for side in (size, size)])
    for d in range(len(kernel)):  # axis 2 + d then counts windows, and their elements become the last axis
        x = x.unfold(2 + d, (kernel[d] - 1) * dilation[d] + 1, stride[d])[..., :: dilation[d]]
    windows = x.shape[2 : 2 + len(kernel)]
    taken = x[:, :, *torch.unravel_index(_places(windows.numel(), limit), windows)]  # [samples, channels, places, *kernel]
    samples, channels, count = taken.shape[:3]
    grouped = taken.reshape(samples, groups, channels // groups, count, -1)
    return grouped.permute(1, 0, 3, 2, 4).reshape(groups, samples * count, -1).float()


def some_rows(x: Tensor, limit: int) -> Tensor:
    """At most `limit` of the rows of each sample, ``[rows, channels]``, of `x`, ``[samples, ..., channels]``."""
    rows = x.reshape(len(x) if x.dim() > 1 else 1, -1, x.shape[-1])
    return rows[:, _places(rows.shape[1], limit)].reshape(-1, x.shape[-1])


def _per_dimension(node: fx.Node, name: str, dimensions: int) -> list[int]:
    values = argument(node, name)
    return [values] * dimensions if isinstance(values, int) else list(values) * (dimensions // len(values))


@lru_cache(maxsize=256)
def _places(count: int, limit: int) -> Tensor:
    """At most `limit` of `count` places, without a pattern that the rows of an image could share."""
    generator = torch.Generator().manual_seed(0)
    return torch.arange(count) if count <= limit else torch.randperm(count, generator=generator)[:limit].sort().values
