"""Values with the gradients of something else, in torch's own operations: what all of its transformations see through."""

from __future__ import annotations

from torch import Tensor


def with_gradients_of(value: Tensor, estimate: Tensor) -> Tensor:
    """`value`, whose gradients are those of `estimate` (the straight-through estimator, arXiv 1308.3432).

    `estimate` is finite, of the same shape. Gradients of any order, forward and reverse, are of the estimate.
    """
    return value.detach() + (estimate - estimate.detach())
