"""What a pass promises about the function that the graph computes."""

from __future__ import annotations

import enum

ROUNDING_DECIBELS = 80.0
"""A pass that only rounds differently stays above this: about 13 bits, far from any compression's loss."""


class Effect(enum.Enum):
    """What a pass promises about the outputs."""

    EXACT = "exact"
    """The same bits, however a library adds up: what differs in single precision alone is run in double."""
    ROUNDING = "rounding"
    """The same function over the reals: outputs within 80 dB."""
    LOSSY = "lossy"
    """Compression happens here; the loss is reported, not judged."""

    def kept(self, decibels: float) -> bool:
        """Whether outputs that agree to so many `decibels` honour the promise."""
        if self is Effect.EXACT:
            return decibels == float("inf")
        return self is Effect.LOSSY or decibels >= ROUNDING_DECIBELS

    @property
    def promise(self) -> str:
        """The promise in words."""
        return "the same bits" if self is Effect.EXACT else f"at least {ROUNDING_DECIBELS:.0f} dB"
