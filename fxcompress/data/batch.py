"""Where the samples of a model's inputs lie: the one place that counts, cuts and joins them.

A batch need not lie in dimension 0 of every input: sequences may come first, a mask may have it elsewhere than what it masks,
and a table, a step or a flag is shared by all samples. Capture finds out (`fxcompress.capture.batch`), and marks the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs

Leaves = list[Any]
"""The flattened inputs of one call: tensors, and whatever else forward takes."""

_MARK = "batch_dimension"


def sample_dimension(node: fx.Node) -> int | None:
    """The dimension of the input `node` along which its samples lie, as capture marked it."""
    return node.meta.get(_MARK)


@dataclass(frozen=True)
class Batch:
    """The dimension of each flattened input along which its samples lie; None where all samples share the input.

    Without any such input the samples cannot be told apart, and batches are run as they come.
    """

    dimensions: tuple[int | None, ...]

    @classmethod
    def of(cls, graph: fx.Graph) -> Batch:
        """As capture marked the inputs of `graph`."""
        return cls(tuple(sample_dimension(node) for node in graph.find_nodes(op="placeholder")))

    def mark(self, graph: fx.Graph) -> None:
        """Note on the inputs of `graph` that this is where their samples lie."""
        for node, dimension in zip(graph.find_nodes(op="placeholder"), self.dimensions, strict=True):
            node.meta[_MARK] = dimension

    @property
    def is_free(self) -> bool:
        """Whether there can be any number of samples."""
        return any(dimension is not None for dimension in self.dimensions)

    def count(self, leaves: Sequence[Any]) -> int:
        """The samples in `leaves`; where they cannot be told apart, what the first input of any dimensions has of its first."""
        sizes = [leaf.shape[d] for leaf, d in zip(leaves, self.dimensions) if d is not None]
        return sizes[0] if sizes else leading_size(leaves) or 1

    def cut(self, leaves: Sequence[Any], start: int, stop: int) -> Leaves:
        """The samples from `start` to `stop`; all, where they cannot be told apart."""
        return [
            leaf if dimension is None else leaf.narrow(dimension, start, min(stop, leaf.shape[dimension]) - start)
            for leaf, dimension in zip(leaves, self.dimensions, strict=True)
        ]

    def split(self, leaves: Sequence[Any], size: int) -> Iterator[Leaves]:
        """`leaves` in pieces of `size` samples, the last of which may have fewer; whole, where they cannot be told apart."""
        total = self.count(leaves) if self.is_free else size
        for start in range(0, total, size):
            yield self.cut(leaves, start, start + size) if total > size else list(leaves)

    def fit_together(self, left: Sequence[Any], right: Sequence[Any]) -> bool:
        """Whether the samples of both can run as one batch: all else is the same."""
        return self.is_free and all(
            _same(a, b) if dimension is None else _same_but_for(dimension, a, b)
            for a, b, dimension in zip(left, right, self.dimensions, strict=True)
        )

    def join(self, pieces: Sequence[Sequence[Any]]) -> Leaves:
        """The samples of all `pieces`, which fit together, as one batch."""
        if len(pieces) == 1:
            return list(pieces[0])
        return [
            parts[0] if dimension is None else torch.cat(parts, dimension)
            for *parts, dimension in zip(*pieces, self.dimensions, strict=True)
        ]

    def first(self, example: ExampleInputs, count: int) -> ExampleInputs:
        """`example` cut down to its first `count` samples."""
        leaves, form = pytree.tree_flatten((example.args, example.kwargs))
        return ExampleInputs(*pytree.tree_unflatten(self.cut(leaves, 0, count), form))


def leading_size(leaves: Sequence[Any]) -> int | None:
    """The first dimension of the first tensor that has any."""
    return next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left is right or (left.shape == right.shape and torch.equal(left, right))
    return type(left) is type(right) and left == right


def _same_but_for(dimension: int, left: Tensor, right: Tensor) -> bool:
    shapes = [[*x.shape[:dimension], *x.shape[dimension + 1 :]] for x in (left, right)]
    return shapes[0] == shapes[1]
