"""Statistics over some of the channels: what norms and means compute once the others are gone.

Each is the ATen operation of that name with one more argument, `counts`: ones for the channels that count, zeros for those
that do not. With ones alone it is that operation. They are made of ATen calls, as those of `fxcompress.ir.training_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("fxcompress", "FRAGMENT")
_LIBRARY.define("counted(Tensor input, Tensor counts, int axis) -> Tensor")
_LIBRARY.define("counted_mean(Tensor self, int[] dim, bool keepdim, Tensor counts, int axis) -> Tensor")
_LIBRARY.define(
    "counted_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps, Tensor counts)"
    " -> Tensor"
)
_LIBRARY.define(
    "counted_rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, float? eps, Tensor counts) -> Tensor"
)
_LIBRARY.define(
    "counted_group_norm(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps, Tensor counts) -> Tensor"
)


def _counted(x: Tensor, counts: Tensor, axis: int) -> Tensor:
    """`x` with zeros in the channels, along `axis`, that do not count: a sum over them leaves those out."""
    return x * _along(counts, x, axis)


def _counted_mean(x: Tensor, dim: Sequence[int], keepdim: bool, counts: Tensor, axis: int) -> Tensor:
    """The mean over `dim`, of which `axis` has the channels."""
    along = _along(counts, x, axis)
    return (x * along).mean(dim, keepdim) * (along.numel() / along.sum())


def _along(counts: Tensor, x: Tensor, axis: int) -> Tensor:
    """`counts`, to be multiplied with `x`."""
    return counts.to(x.dtype).view([-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())])


def _counted_layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, counts: Tensor
) -> Tensor:
    wide = _wide(x)
    counts = counts.to(wide.dtype)
    total = counts.sum()
    centred = (wide - (wide * counts).sum(-1, keepdim=True) / total) * counts
    result = centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / total + eps)
    return _affine(result, weight, bias).to(x.dtype)


def _counted_rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float | None, counts: Tensor
) -> Tensor:
    wide = _wide(x)
    counts = counts.to(wide.dtype)
    counting = wide * counts
    eps = torch.finfo(wide.dtype).eps if eps is None else eps
    result = counting * torch.rsqrt(counting.square().sum(-1, keepdim=True) / counts.sum() + eps)
    return _affine(result, weight, None).to(x.dtype)


def _counted_group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, counts: Tensor
) -> Tensor:
    """`counts` are of the channels of a group, the same in each."""
    wide = _wide(x).unflatten(1, (num_groups, -1)).unsqueeze(3).flatten(3)
    along = counts.to(wide.dtype).view(-1, 1)
    total = along.sum() * wide.shape[-1]
    centred = (wide - (wide * along).sum((2, 3), keepdim=True) / total) * along
    result = centred * torch.rsqrt(centred.square().sum((2, 3), keepdim=True) / total + eps)
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    weight, bias = (one if one is None else one.view(shape) for one in (weight, bias))
    return _affine(result.reshape(x.shape), weight, bias).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """`x` in at least single precision, as norms compute."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


for _name, _function in (
    ("counted", _counted),
    ("counted_mean", _counted_mean),
    ("counted_layer_norm", _counted_layer_norm),
    ("counted_rms_norm", _counted_rms_norm),
    ("counted_group_norm", _counted_group_norm),
):
    _LIBRARY.impl(_name, _function, "CompositeImplicitAutograd")

COUNTED = torch.ops.fxcompress.counted.default
COUNTED_MEAN = torch.ops.fxcompress.counted_mean.default
COUNTED_LAYER_NORM = torch.ops.fxcompress.counted_layer_norm.default
COUNTED_RMS_NORM = torch.ops.fxcompress.counted_rms_norm.default
COUNTED_GROUP_NORM = torch.ops.fxcompress.counted_group_norm.default
