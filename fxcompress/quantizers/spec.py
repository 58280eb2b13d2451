"""How one tensor is quantized, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fxcompress.errors import InputError
from fxcompress.options import Declared
from fxcompress.report.short_repr import short_repr


@dataclass(frozen=True)
class QuantizationSpec(Declared):
    """The integer grid of a quantizer.

    Attributes:
        bits: 2 to 8.
        symmetric: zero point in the middle of a signed grid (or 0 on an unsigned one). An asymmetric quantizer picks the
            zero point from the data; a range that does not cross zero has zero point 0 either way.
        signed: int or uint grid; None lets the data decide (unsigned where no value is negative, or when asymmetric).
        narrow: leave out the lowest level, so that a symmetric signed grid is its own mirror image: -127 to 127.
        channel_axis: the axis with one scale an index; None for one scale a tensor.
        pairs: for weights: neighbours of one sign add up to 128 steps at most, so that products with bytes are added up rightly
            on x86 CPUs without VNNI too (`fxcompress.quantizers.neighbours`): the steps of a channel that would not are wider,
            also in training. Of 7 bits only those to one side of zero may not fit, of fewer all do, and it is said for the
            grid of 8 bits that `RestorePrecision` may put in their place.
        operand: for activations that are multiplied with others: likewise, of what `Calibrate` sees.
        group_size: for weights: so many consecutive elements along the input axis share a scale, and nothing else does;
            the last group of a row may be smaller. None for no groups. ONNX calls it `block_size`.
    """

    bits: Annotated[int, Ge(2), Le(8)] = 8
    symmetric: bool = True
    signed: bool | None = None
    narrow: bool = False
    pairs: bool = False
    operand: bool = False
    channel_axis: int | None = None
    group_size: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        if self.narrow and not self.symmetric:
            raise InputError("narrow=True needs symmetric=True: an asymmetric grid has no mirror image to keep")

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def scale_axis(self) -> int | None:
        """The axis along which the scale changes: of the groups if there are any, else of the channels.

        A weight's first two axes are its outputs and inputs, in either order, so the groups' axis is that of the two
        which is not the channels'.
        """
        if self.group_size is None or self.channel_axis is None:
            return self.channel_axis
        return 1 - self.channel_axis

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the scale of a tensor of this shape: ``[]``, ``[channels]``, or `shape` with one axis in groups."""
        if self.channel_axis is None:
            return ()
        if self.group_size is None:
            return (shape[self.channel_axis],)
        grouped = list(shape)
        grouped[1 - self.channel_axis] = -(-shape[1 - self.channel_axis] // self.group_size)
        return tuple(grouped)

    def reduced(self) -> QuantizationSpec:
        """The signed grid of 7 bits in place of one of 8 bits, another as it is; with `pairs` for what is put in its place."""
        return replace(self, bits=7, signed=True, pairs=True) if self.bits == 8 else replace(self, pairs=True)

    def levels(self, signed: bool) -> tuple[int, int]:
        """Lowest and highest integer of the grid."""
        if signed:
            return -(2 ** (self.bits - 1)) + self.narrow, 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1 - self.narrow

    def is_signed(self, low: Tensor) -> bool:
        """Whether the grid for values from `low` upwards is signed."""
        return bool(self.signed) if self.signed is not None else self.symmetric and bool((low < 0).any())

    def fit(self, low: Tensor, high: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the grid for values from `low` to `high`, where low <= 0 <= high, elementwise.

        Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", arXiv 1806.08342, section 2.
        """
        lowest, highest = self.levels(signed)
        if self.symmetric:
            scale = torch.maximum(high / highest, low / lowest if lowest else torch.zeros_like(low))
            return _positive(scale), torch.zeros_like(scale)
        scale = _positive((high - low) / (highest - lowest))
        return scale, (lowest - low / scale).round().clamp(lowest, highest)


def _positive(scale: Tensor) -> Tensor:
    """`scale` with 1.0 where it is zero or too small to divide by: a range of nothing but zeros."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
