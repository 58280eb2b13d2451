"""NaN and infinity in calibration data, which are told where they are read: a mask, say, may hold infinities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fxcompress.data.batch import Batch
from fxcompress.errors import CalibrationError


class NonFinite:
    """The first NaN and the first infinity of the data that was looked at: which input of which sample has them."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def look(self, leaves: Sequence[Any], names: Sequence[str], batch: Batch, seen: int) -> Iterator[str]:
        """Look at the flattened inputs of a batch, before which came as many samples as were `seen`; what is new in it."""
        for leaf, name, dimension in zip(leaves, names, batch.dimensions, strict=True):
            if _is_finite(leaf):
                continue
            for kind, places in (("NaN", leaf.isnan()), ("infinity", leaf.isinf())):
                if kind not in self.found and places.any():
                    first = 0 if dimension is None else int(places.nonzero()[:, dimension].min())
                    which = "the batch that begins with sample" if dimension is None else "sample"
                    self.found[kind] = f"the first {kind} in the data is in {name} of {which} {seen + first}, counted from 0"
                    yield self.found[kind]

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """What data give no usable values for in the block carries what was found in them."""
        try:
            yield
        except CalibrationError as problem:
            if not self.found:
                raise
            raise CalibrationError(f"{problem}; {self}") from problem

    def __str__(self) -> str:
        return "; ".join(self.found.values())


def _is_finite(leaf: Any) -> bool:
    """Whether `leaf` holds neither NaN nor infinity. A finite sum tells so at a fortieth of the price of looking at each."""
    if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return True
    return bool(leaf.sum().isfinite()) or bool(leaf.isfinite().all())
