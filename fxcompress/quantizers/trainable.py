"""Quantizers whose range is trained with the rest of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.ir.state import outside, widen_scalars
from fxcompress.quantizers import native
from fxcompress.quantizers.linearized import is_transformed
from fxcompress.quantizers.ops import along
from fxcompress.quantizers.quantizer import Quantizer, outside_grid
from fxcompress.quantizers.straight_through import EVERYTHING, Range, fake_quantize

TINY = 1e-16
"""What is added to the size of a parameter, so that no range is empty."""


class TrainableQuantizer(Quantizer):
    """A quantizer whose range follows from parameters.

    `scale` and `zero_point` are computed from them whenever they are read, so what is lowered is what was trained. The
    parameters are those of NNCF (arXiv 2002.08679, section "Quantization"), see `FakeQuantize` for their gradients.

    Args:
        start: the grid, and the range to start from.
        learning_rate_multiplier: of the gradients of the range.

    Attributes:
        input_extent: of a symmetric grid, the value of its highest level; of an asymmetric one, its width. Its absolute value
            counts. Shape of the scale, ``[1]`` where that has none.
        input_low: of an asymmetric grid, the value of its lowest level, before the range is widened to hold 0 exactly;
            None of a symmetric one.
        room: of weights that keep pairs (see ``spec.pairs``), how many times as wide as the range's the steps are that the
            neighbours seen last in training need, of the shape of the scale, and at least 1; None of others. An optimizer has
            the range, and maybe a shard of it.
    """

    input_extent: nn.Parameter
    input_low: nn.Parameter | None
    room: Tensor | None

    def __init__(self, start: Quantizer, learning_rate_multiplier: float = 1.0):
        nn.Module.__init__(self)
        self.training = start.training
        self.spec, self.estimator, self.enabled = start.spec, start.estimator, start.enabled
        self.learning_rate_multiplier = learning_rate_multiplier
        shape = start.scale.shape or (1,)  # FSDP takes no parameter without dimensions
        self.input_extent = nn.Parameter(start.scale.new_empty(shape))
        self.input_low = None if self.spec.symmetric else nn.Parameter(start.scale.new_empty(shape))
        self.register_buffer("room", torch.ones_like(start.scale) if self.spec.pairs else None)
        self._no_room = False  # known while a call lasts: whoever averages or loads states writes to the buffer
        self.followed = start.followed
        self.set_grid(start.scale, start.zero_point, start.signed)

    @torch.no_grad()
    def set_grid(self, scale: Tensor, zero_point: Tensor, signed: bool) -> None:
        self.signed, self.ready = signed, True
        lowest, highest = self.levels
        if self.room is not None:
            self.room.fill_(1.0)
        if self.input_low is None:
            self.input_extent.data.copy_(scale * highest)  # data: a range may follow what is seen between two backward passes
        else:
            self.input_extent.data.copy_(scale * (highest - lowest))
            self.input_low.data.copy_((lowest - zero_point) * scale)

    @torch.no_grad()
    def widen(self, factor: Tensor) -> None:
        if self.room is None:
            self.input_extent.data.mul_(factor.view_as(self.input_extent))
        else:
            self.room.mul_(factor)
            self._no_room = False

    def _see(self, x: Tensor) -> None:
        if self.room is not None and not is_transformed():
            self.room.fill_(1.0)
            self._no_room = True
        super()._see(x)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self.grid()[0]

    @property
    def zero_point(self) -> Tensor:  # type: ignore[override]
        scale, zero_point = self.grid()
        return torch.zeros_like(scale) if zero_point is None else zero_point

    @torch.no_grad()
    def grid(self) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point; None for a zero point of 0."""
        return grid_of(*self._range(), *self.levels)

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        """As of any quantizer, of the grid that follows from the range in `state`."""
        problem = super().problem_with(state) or outside(state, "room", 1, math.inf)
        extent = state.get("input_extent")
        if problem is not None or extent is None:
            return problem
        signed, *_, bits = state["_extra_state"].tolist()
        levels = replace(self.spec, bits=bits).levels(bool(signed))
        scale, point = grid_of(state.get("input_low"), extent, *levels)
        return outside_grid({"scale": scale, "zero_point": torch.zeros_like(scale) if point is None else point}, *levels)

    def _range(self) -> tuple[Tensor | None, Tensor]:
        """What the range follows from, in the shape of the scale."""
        low, extent = self.input_low, self.input_extent
        if self.spec.scale_axis is None:
            low, extent = None if low is None else low.reshape(()), extent.reshape(())
        return None if low is None else self._with_room(low), self._with_room(extent)

    def _with_room(self, bound: Tensor) -> Tensor:
        """A parameter as its range is with room; what is given room has no gradient, or would shrink against it forever."""
        if self.room is None or self._no_room:
            return bound
        return torch.where(self.room > 1, (bound * self.room).detach(), bound)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        widen_scalars(self, state_dict, prefix)
        if self.room is not None:  # a state from before quantizers had this has none
            state_dict.setdefault(f"{prefix}room", torch.ones_like(self.room))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def rounded(self, x: Tensor, within: Range = EVERYTHING) -> Tensor:
        place = self.spec.scale_axis, self.spec.group_size or 0, x.shape
        low, extent = self._range()
        self._no_room = False
        with torch.no_grad():
            scale, point = grid_of(low, extent, *self.levels)
        zero_point, lower = (None if one is None else along(one, *place) for one in (point, low))
        upper = along(extent, *place)
        learned = lower, upper, self.levels, self.learning_rate_multiplier
        return fake_quantize(x, along(scale, *place), zero_point, *learned, within)


def grid_of(low: Tensor | None, extent: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point, None for one of 0, of integers from `lowest` to `highest` over a range as parameters have it."""
    kernel = None if torch.compiler.is_compiling() or is_transformed() else native.loaded
    if isinstance(kernel, native.CKernel) and (found := kernel.grid(low, extent, (lowest, highest), TINY)) is not None:
        return found
    extent = extent.abs() + TINY
    if low is None:
        return extent / highest, None
    scale, point = holding_zero(low, extent, highest - lowest)
    return scale, point + lowest


def holding_zero(low: Tensor, extent: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The grid of so many steps over `low` to `low` + `extent`, widened such that 0.0 is on it: scale, steps below zero.

    Of the two ends the one is moved outwards that makes the range larger; neither, where zero is an end already. NNCF
    (arXiv 2002.08679), section "Quantization", calls it tuning the range.
    """
    bottom, top = low.clamp(max=0), (low + extent).clamp(min=0)
    width = top - bottom
    below = (-bottom * steps / width).round()
    inner = torch.maximum(-bottom / below, top / (steps - below))
    return torch.where((below == 0) | (below == steps), width / steps, inner), below
