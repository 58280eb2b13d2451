"""The module that a quantizer node calls: simulated quantization in float, bit-equal to what is lowered."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.errors import CalibrationError
from fxcompress.ir.bypass import bypass
from fxcompress.ir.state import outside
from fxcompress.masks.mask import select_indices
from fxcompress.quantizers.following import FollowedRange
from fxcompress.quantizers.linearized import is_transformed
from fxcompress.quantizers.neighbours import LARGEST, answers_at_once, weight_sums, widening
from fxcompress.quantizers.ops import along
from fxcompress.quantizers.ranges import Estimator
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.straight_through import EVERYTHING, Range, clamped, fake_quantize

_LEAST_SCALE = 1e-45  # the least float above zero

_PIECE = 2**21  # values that are rounded at a time


class Quantizer(nn.Module):
    """Rounds its input to the integer grid of `spec`, and returns floats.

    Until a range is set it returns its input unchanged.

    Args:
        spec: the grid.
        shape: of the tensors that it rounds, which the shape of the scale follows from; not needed per tensor.
        estimator: chooses the range from data; None for the one that `Calibrate` is given.

    Attributes:
        scale: the step, shape ``spec.scale_shape(shape)``.
        zero_point: the integer that stands for 0.0, float of the same shape.
        signed: whether the grid is signed, decided when the range is set.
        ready: whether a range is set.
        enabled: whether it rounds; else it returns its input unchanged.
        followed: the ranges that were set from nothing but zeros, which follow the values that are rounded in training.
    """

    scale: Tensor

    def __init__(self, spec: QuantizationSpec, shape: Sequence[int] = (), estimator: Estimator | None = None):
        super().__init__()
        self.training = False  # passes look at values, and no range is to follow those
        self.spec, self.estimator = spec, estimator
        self.signed, self.ready, self.enabled = bool(spec.signed), False, True
        scale_shape = spec.scale_shape(shape)
        self.register_buffer("scale", torch.ones(scale_shape))
        self.register_buffer("zero_point", torch.zeros(scale_shape))
        self.followed = FollowedRange(scale_shape)

    @property
    def zero_point(self) -> Tensor:
        """Whole, whatever an average over models made of the buffer."""
        held = self._buffers.get("zero_point")
        if held is None:
            raise AttributeError("zero_point")
        return held.round()

    def get_extra_state(self) -> Tensor:
        """`signed`, `ready`, `enabled` and the number of bits, for `state_dict`: what a pass may choose by the data."""
        return torch.tensor([self.signed, self.ready, self.enabled, self.spec.bits])

    def set_extra_state(self, state: Tensor) -> None:
        *flags, bits = state.tolist()
        self.signed, self.ready, self.enabled = map(bool, flags)
        self.spec = replace(self.spec, bits=bits)

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        """What is wrong with `state`, its own by name; None where it can be loaded."""
        flags = state.get("_extra_state")
        if flags is None:
            return None
        signed, ready, enabled, bits = flags.tolist()
        if not {signed, ready, enabled} <= {0, 1} or not 2 <= bits <= 8:
            return f"it says to round to {bits} bits, and its flags are {signed}, {ready}, {enabled}"
        lowest, highest = replace(self.spec, bits=bits).levels(bool(signed))
        return outside_grid(state, lowest, highest)

    @property
    def bytes_per_weight(self) -> float:
        """Bytes that one quantized element takes in a file."""
        return (4 if self.spec.bits <= 4 else 8) / 8

    def bytes_in_file(self, count: int) -> int:
        """Bytes that `count` weights take in a file, with their scales and zero points."""
        return math.ceil(count * self.bytes_per_weight + self.scale.numel() * (4 + self.bytes_per_weight))

    @property
    def levels(self) -> tuple[int, int]:
        return self.spec.levels(self.signed)

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Fit the grid to values from `low` to `high` (shape of `scale`); 0.0 is always representable.

        Raises:
            CalibrationError: a bound is NaN or infinite.
        """
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise CalibrationError(f"the range is {_span(low, high)}")
        low, high = low.clamp(max=0.0).float(), high.clamp(min=0.0).float()
        nothing = high - low <= torch.finfo(torch.float32).tiny
        signed = self.spec.is_signed(low) or (self.spec.signed is None and self.spec.symmetric and bool(nothing.all()))
        self.set_grid(*self.spec.fit(low, high, signed), signed)
        self.followed.start(nothing)

    @torch.no_grad()
    def _follow_unfitted(self, x: Tensor) -> None:
        if not self.followed.any or is_transformed():
            return
        fitted = self.followed.follow(x, self.spec)
        grid = self.spec.fit(self.followed.low, self.followed.high, self.signed)
        self.set_grid(*(torch.where(fitted, new, old) for new, old in zip(grid, (self.scale, self.zero_point))), self.signed)

    @torch.no_grad()
    def set_grid(self, scale: Tensor, zero_point: Tensor, signed: bool) -> None:
        """Round to multiples of `scale` around `zero_point` (of the shape of `scale`), on a signed grid or not."""
        self.scale.copy_(scale)
        self._buffers["zero_point"].copy_(zero_point)
        self.signed, self.ready = signed, True

    @torch.no_grad()
    def widen(self, factor: Tensor) -> None:
        """Make the steps so many times as wide (of the shape of `scale`)."""
        self.scale.mul_(factor)

    def spread(self, weight: Tensor) -> None:
        """Make the steps wider where neighbours in `weight` are beyond what pairs may add up to (see ``spec.pairs``).

        Integers that add up to just as much, as rounding passes choose them, keep their steps.
        """
        if not self._keeps_pairs(weight) or is_transformed():  # there, what is rounded is an argument
            return
        weight, axis, scale = weight.detach(), self.spec.channel_axis, self.scale
        factor = widening(weight_sums(weight, axis), scale)
        if not answers_at_once(factor) or (factor > 1).any():
            beyond = weight_sums(weight, axis, (scale, self.zero_point, self.levels)) > LARGEST
            self.widen(torch.where(beyond, factor, 1.0))

    def pairs_beyond(self, integers: Tensor) -> Tensor:
        """Where neighbours in `integers`, those of a weight less their zero point, are beyond that: bool, as `scale`."""
        if not self._keeps_pairs(integers):
            return torch.zeros_like(self.scale, dtype=torch.bool)
        return weight_sums(integers, self.spec.channel_axis) > LARGEST

    def _keeps_pairs(self, weight: Tensor) -> bool:
        if not self.spec.pairs or self.spec.group_size or weight.dim() < 2:
            return False
        if self.spec.bits == 7:  # in files they are less by their zero point, which leaves them 127 steps to one side
            return not (self.spec.symmetric and self.signed)
        return self.spec.bits == 8 and self.signed

    @property
    def number_type(self) -> str:
        """Sign and bits of the integers, such as ``"uint6"``; `dtype` is what holds them."""
        return f"{'int' if self.signed else 'uint'}{self.spec.bits}"

    @property
    def dtype(self) -> str:
        """The type that holds the integers in a file: a key of `fxcompress.quantization.ops.INTEGER_RANGES`."""
        return f"{'int' if self.signed else 'uint'}{4 if self.spec.bits <= 4 else 8}"

    def forward(self, x: Tensor, within: Range = EVERYTHING) -> Tensor:
        """`x`, clamped to `within` as by the activation that stood before this (see `fxcompress.driver.clamps`), rounded."""
        if not (self.ready and self.enabled):
            return bypass(self, clamped(x, within))
        if self.training and (self.followed.any or self.spec.pairs):
            x, within = clamped(x, within), EVERYTHING
            self._see(x)
        return self.rounded(x, within)

    def _see(self, x: Tensor) -> None:
        """Let the range follow `x`, which is rounded in training."""
        self._follow_unfitted(x)
        self.spread(x)

    def rounded(self, x: Tensor, within: Range = EVERYTHING) -> Tensor:
        """`x`, clamped to `within`, on the grid, with straight-through gradients."""
        return fake_quantize(x, *self.broadcast(x.shape), None, None, self.levels, 1.0, within)

    @torch.no_grad()
    def integers(self, x: Tensor, dtype: torch.dtype | None = None, shift: int = 0) -> Tensor:
        """The integers that stand for `x`, with `shift` added, as floats or of `dtype`: a few rows at a time."""
        result = torch.empty_like(x, dtype=dtype or x.dtype)
        for rows in self._pieces(x):
            scale, zero_point = self.broadcast(x[rows].shape, rows)
            result[rows] = torch.div(x[rows], scale).round_().add_(zero_point).clamp_(*self.levels).add_(shift)
        return result

    def _pieces(self, x: Tensor) -> Iterator[Any]:
        """Indices of the rows of `x` that are rounded together: all of them, where the grid is not one of rows."""
        if not self.by_rows:
            yield ...
            return
        step = max(1, _PIECE * len(x) // max(1, x.numel()))
        yield from (slice(start, start + step) for start in range(0, len(x), step))

    @property
    def by_rows(self) -> bool:
        """Whether each index of the first axis has scales of its own, so that it can be rounded apart from the others."""
        axis = self.spec.scale_axis
        return axis is not None and (axis == 0) != bool(self.spec.group_size)

    def rounded_rows(self, x: Tensor, rows: Any) -> Tensor:
        """Those of `rows` (a slice or indices) of what this module makes of `x`, where it is `by_rows` and switched on."""
        return fake_quantize(x[rows], *self.broadcast(x[rows].shape, rows), None, None, self.levels, 1.0)

    def broadcast(self, shape: torch.Size, rows: Any = None) -> tuple[Tensor, Tensor]:
        """`scale` and `zero_point`, or those of some `rows`, as they broadcast over a tensor of this shape."""
        grid = self.spec.scale_axis, self.spec.group_size or 0, shape
        scale, zero_point = (self.scale, self.zero_point) if rows is None else (self.scale[rows], self.zero_point[rows])
        return along(scale, *grid), along(zero_point, *grid)

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """The axis that groups divide: without some of its indices others would share a scale."""
        return () if self.spec.group_size is None or self.spec.scale_axis is None else (self.spec.scale_axis,)

    def narrowed(self, kept: Mapping[int, Tensor]) -> Quantizer:
        """The quantizer of tensors of which only the indices `kept` of axes are left, by axis; none of `whole_axes`."""
        axis = self.spec.scale_axis
        along = kept if self.whole_axes else {0: kept[axis]} if axis is not None and axis in kept else {}
        if not along:
            return self
        twin = copy.deepcopy(self)
        for owner in (twin, twin.followed):
            for held, name, tensor in [(h, *item) for h in (owner._parameters, owner._buffers) for item in h.items()]:
                if tensor is not None and tensor.shape == self.scale.shape:
                    value = select_indices(tensor.detach(), along)
                    held[name] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        return twin

    def extra_repr(self) -> str:
        decided = self.ready or self.spec.signed is not None
        grid = self.number_type if decided else f"{self.spec.bits} bits"
        where = "per tensor" if self.spec.channel_axis is None else f"per channel of axis {self.spec.channel_axis}"
        if self.spec.group_size is not None:
            where = f"per group of {self.spec.group_size} along axis {self.spec.scale_axis}"
        return f"{grid}, {where}" + ("" if self.ready else ", no range yet")


def outside_grid(state: Mapping[str, Tensor], lowest: int, highest: int) -> str | None:
    """What is wrong with the ``scale`` and the ``zero_point`` of integers from `lowest` to `highest`; None where nothing is."""
    return outside(state, "scale", _LEAST_SCALE, math.inf) or outside(state, "zero_point", lowest, highest, whole=True)


def _span(low: Tensor, high: Tensor) -> str:
    return f"{float(low.min()):g} to {float(high.max()):g}"
