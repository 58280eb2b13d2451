"""What modules in a graph can lose channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Narrowable(Protocol):
    """A module in a graph that treats every channel by itself, and can do so for fewer of them: a mask, a quantizer.

    Attributes:
        whole_axes: those of its input that can lose no channel.
    """

    whole_axes: tuple[int, ...]

    def narrowed(self, kept: Mapping[int, Tensor]) -> nn.Module:
        """The module for tensors of which only the indices `kept` of axes are left, by axis; other axes stay whole."""
