"""Places of a sequence that only fill it up: those behind the last one that a mask counts.

Where nothing that the model gives depends on them, they are left out of what calibration runs, and samples of about the same
length run together. Capture finds out whether that is so (`fxcompress.capture.padding`), and marks the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.data.batch import Leaves

_MARK, _COUNTS = "padded_dimension", "counts_places"


@dataclass(frozen=True)
class Padding:
    """The dimension of each flattened input along which a sequence lies, None where none does, and which input is the mask.

    The mask is zero where a place is padding.
    """

    dimensions: tuple[int | None, ...]
    mask: int

    @classmethod
    def of(cls, graph: fx.Graph) -> Padding | None:
        """As capture marked the inputs of `graph`; None where no places are known to be left out."""
        inputs = graph.find_nodes(op="placeholder")
        mask = next((index for index, node in enumerate(inputs) if node.meta.get(_COUNTS)), None)
        return None if mask is None else cls(tuple(node.meta.get(_MARK) for node in inputs), mask)

    def mark(self, graph: fx.Graph) -> None:
        """Note on the inputs of `graph` that this is where padding lies."""
        for index, (node, dimension) in enumerate(zip(graph.find_nodes(op="placeholder"), self.dimensions, strict=True)):
            node.meta[_MARK], node.meta[_COUNTS] = dimension, index == self.mask

    def length(self, sample: Sequence[Any]) -> int:
        """Up to the last place that counts; no less than 2, if there are so many, since a trace is of several."""
        mask, dimension = sample[self.mask], self.dimensions[self.mask]
        places = mask.movedim(dimension, 0).flatten(1).ne(0).any(1).nonzero()
        return max(int(places[-1]) + 1 if len(places) else 0, min(2, len(mask.movedim(dimension, 0))))

    def resized(self, sample: Sequence[Any], length: int) -> Leaves:
        """`sample` of so many places: cut off, or filled up with its last one, which the mask does not count."""
        return [
            leaf if dimension is None else _resized(leaf, dimension, length, zero=index == self.mask)
            for index, (leaf, dimension) in enumerate(zip(sample, self.dimensions, strict=True))
        ]


def _resized(leaf: Tensor, dimension: int, length: int, *, zero: bool) -> Tensor:
    missing = length - leaf.shape[dimension]
    if missing <= 0:
        return leaf.narrow(dimension, 0, length)
    last = leaf.narrow(dimension, leaf.shape[dimension] - 1, 1)
    filling = (last.new_zeros(last.shape) if zero else last).repeat_interleave(missing, dimension)
    return torch.cat([leaf, filling], dimension)
