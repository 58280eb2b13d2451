"""The ranges of a weight: cut it into the values that share a scale, and ask an estimator about each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import Estimator, MinMax, Range
from fxcompress.quantizers.spec import QuantizationSpec

ROWS, VALUES = 4096, 2**20
"""Rows that an estimator is shown at once, and values in them, which bounds its memory."""


def fit(quantizer: Quantizer, weight: Tensor) -> None:
    """Set the range of `quantizer` from `weight`: by its own estimator, or to the lowest and highest values.

    Raises:
        CalibrationError: a value is NaN or infinite.
    """
    quantizer.set_range(*weight_range(weight, quantizer.spec, quantizer.estimator or MinMax()))
    quantizer.spread(weight)


def weight_range(weight: Tensor, spec: QuantizationSpec, estimator: Estimator) -> Range:
    """The lowest and highest value to represent for each scale of `weight`, of shape ``spec.scale_shape(weight.shape)``.

    Where a value is NaN or infinite, so is a bound.
    """
    spec = replace(spec, signed=spec.is_signed(weight))  # all of a weight has one type
    if spec.scale_axis is None:
        low, high = _by_row(weight.reshape(1, -1), spec, estimator)
        return low.squeeze(0), high.squeeze(0)
    if spec.group_size is None:
        return _by_row(weight.movedim(spec.scale_axis, 0).flatten(1), spec, estimator)
    size, axis = spec.group_size, spec.scale_axis
    whole = weight.shape[axis] // size * size
    parts = [weight.narrow(axis, 0, whole).unflatten(axis, (-1, size))] if whole else []
    if whole < weight.shape[axis]:
        parts.append(weight.narrow(axis, whole, weight.shape[axis] - whole).unsqueeze(axis))
    ranges = [_by_group(part.movedim(axis + 1, -1), spec, estimator) for part in parts]
    low, high = (torch.cat(bounds, axis) for bounds in zip(*ranges))
    return low, high


def _by_group(groups: Tensor, spec: QuantizationSpec, estimator: Estimator) -> Range:
    """The ranges of `groups`, whose last dimension is a group."""
    low, high = _by_row(groups.flatten(0, -2), spec, estimator)
    return low.view(groups.shape[:-1]), high.view(groups.shape[:-1])


def _by_row(rows: Tensor, spec: QuantizationSpec, estimator: Estimator) -> Range:
    count = max(1, min(ROWS, VALUES // rows.shape[1]))
    low, high = zip(*(estimator.fit_values(some, spec) for some in rows.split(count)))
    return torch.cat(low), torch.cat(high)
