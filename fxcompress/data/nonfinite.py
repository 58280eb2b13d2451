"""NaN and infinity in calibration data, which are told where they came to harm: a mask, say, may hold infinities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxcompress.data.batch import Batch


class NonFinite:
    """The first NaN and the first infinity of the data that was looked at: which input of which sample has them."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def look(self, leaves: Sequence[Any], names: Sequence[str], batch: Batch, seen: int) -> None:
        """Look at the flattened inputs of a batch, before which came as many samples as were `seen`."""
        for leaf, name, dimension in zip(leaves, names, batch.dimensions, strict=True):
            if not isinstance(leaf, Tensor) or leaf.isfinite().all():
                continue
            for kind, places in (("NaN", leaf.isnan()), ("infinity", leaf.isinf())):
                if kind not in self.found and places.any():
                    first = 0 if dimension is None else int(places.nonzero()[:, dimension].min())
                    which = "the batch that begins with sample" if dimension is None else "sample"
                    self.found[kind] = f"the first {kind} in the data is in {name} of {which} {seen + first}, counted from 0"

    def __str__(self) -> str:
        return "; ".join(self.found.values())
