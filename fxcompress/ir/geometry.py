"""What a convolution reads along each of its spatial axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxcompress.ir.signature import arguments


@dataclass(frozen=True)
class Axis:
    """A spatial axis of a convolution; `size` is None where it is free, `before` and `after` are the padding."""

    size: int | None
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def extent(self) -> int:
        """How much the kernel spans."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def outputs(self) -> int | None:
        """How many places it puts out."""
        if self.size is None:
            return None
        return (self.before + self.size + self.after - self.extent) // self.stride + 1

    @property
    def pads_alone(self) -> bool:
        """Whether some output is computed from padding alone, at any size where that is free."""
        sizes = range(1, self.extent + self.stride + 1) if self.size is None else [self.size]
        return any(self._pads_alone(size) for size in sizes)

    def _pads_alone(self, size: int) -> bool:
        starts = range(-self.before, size + self.after - self.extent + 1, self.stride)
        return any(not any(0 <= start + self.dilation * tap < size for tap in range(self.kernel)) for start in starts)


def axes_of(node: fx.Node) -> list[Axis]:
    """The spatial axes of the convolution `node`, the columns last.

    Padding by name is none here: half of a kernel at most, it never is all that an output reads.
    """
    held = arguments(node)
    sizes, kernel = (held[name].meta["val"].shape[2:] for name in ("input", "weight"))
    known = [size if isinstance(size, int) else None for size in sizes]
    padding = 0 if isinstance(held["padding"], str) else held["padding"]
    each = (_each(given, len(kernel)) for given in (held["stride"], held["dilation"], padding, padding))
    return [Axis(*one) for one in zip(known, kernel, *each)]


def _each(given: Any, count: int) -> list[int]:
    listed = [given] if isinstance(given, int) else list(given)
    return listed * count if len(listed) == 1 else listed
