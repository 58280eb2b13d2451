"""How one tensor is quantized, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fxcompress.errors import InputError


@dataclass(frozen=True)
class QuantizationSpec:
    """The integer grid of a quantizer.

    Attributes:
        bits: 2 to 8.
        symmetric: zero point in the middle of a signed grid (or 0 on an unsigned one). An asymmetric quantizer picks the
            zero point from the data; a range that does not cross zero has zero point 0 either way.
        signed: int or uint grid; None lets the data decide (unsigned where no value is negative, or when asymmetric).
        narrow: leave out the lowest level, so that a symmetric signed grid is its own mirror image: -127 to 127.
        channel_axis: the axis with one scale an index; None for one scale a tensor.
    """

    bits: int = 8
    symmetric: bool = True
    signed: bool | None = None
    narrow: bool = False
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"bits must be 2 to 8, got {self.bits}")
        if self.narrow and not self.symmetric:
            raise InputError("narrow=True needs symmetric=True: an asymmetric grid has no mirror image to keep")

    def levels(self, signed: bool) -> tuple[int, int]:
        """Lowest and highest integer of the grid."""
        if signed:
            return -(2 ** (self.bits - 1)) + self.narrow, 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1 - self.narrow
