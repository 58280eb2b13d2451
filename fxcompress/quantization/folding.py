"""Factors on a quantized weight, taken up by its scales: no integer is rounded anew."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fxcompress.quantizers.ops import along
from fxcompress.quantizers.quantizer import Quantizer


@torch.no_grad()
def scaled(quantizer: Quantizer, weight: Tensor, factor: Tensor, axis: int) -> tuple[Tensor, Quantizer] | None:
    """A weight and its quantizer, which together give what `quantizer` makes of `weight`, times `factor` along `axis`.

    The scales take up the size of the factor, so they stay positive. For its sign, the integers and the zero point are
    mirrored in the middle of the grid, which on a narrow grid flips the integers' sign. Integers are otherwise those of
    `weight`, but for a factor of zero (or one so small that the scale has no reciprocal), which makes all of a channel zeros.

    Args:
        factor: shape ``[weight.shape[axis]]``.
        axis: that of the output channels.

    Returns:
        None where the scales would not be finite, or run along other channels.
    """
    spec, grid_sum = quantizer.spec, sum(quantizer.levels)
    if spec.channel_axis is None:
        spec = replace(spec, channel_axis=axis)
    elif spec.channel_axis != axis:
        return None
    place = spec.scale_axis, spec.group_size or 0, weight.shape
    made = Quantizer(spec, weight.shape)
    size = (factor if made.scale.dim() == 1 else along(factor, axis, 0, made.scale.shape)).expand_as(made.scale)
    scale = (quantizer.scale.double() * size.abs()).float()
    zero_point = torch.where(size < 0, grid_sum - quantizer.zero_point, quantizer.zero_point)
    if not scale.isfinite().all():
        return None
    gone = scale <= torch.finfo(torch.float32).tiny
    scale = torch.where(gone, torch.ones_like(scale), scale)
    made.set_grid(scale, zero_point, quantizer.signed)
    integers = quantizer.integers(weight)
    integers = torch.where(along(size < 0, *place), grid_sum - integers, integers)
    integers = torch.where(along(gone, *place), along(made.zero_point, *place), integers)
    return (integers - along(made.zero_point, *place)) * along(made.scale, *place), made
