"""What a layer reads, as far as a least squares fit of its weight asks for it: sums, and sums of products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Of `count` rows x that a layer reads: the sum, ``[groups, columns]``, and that of ``x x^T``, with one axis more.

    Where the layer should make of each of them what the float model makes of another row y, also the sums of y and ``y x^T``.
    """

    sum: Tensor | None = None
    total: Tensor | None = None
    count: int = 0
    wanted_sum: Tensor | None = None
    cross: Tensor | None = None

    def add(self, rows: Tensor, wanted: Tensor | None = None) -> Moments:
        """Take in `rows`, ``[groups, count, columns]``, and those of the float model beside them, if others."""
        self.sum, self.total = _added(self.sum, rows.sum(1)), _added(self.total, rows.mT @ rows)
        if wanted is not None:
            self.wanted_sum, self.cross = _added(self.wanted_sum, wanted.sum(1)), _added(self.cross, wanted.mT @ rows)
        self.count += rows.shape[1]
        return self

    def mean(self) -> Tensor:
        """Of x, ``[groups, columns]``."""
        assert self.sum is not None
        return self.sum / self.count

    def wanted_mean(self) -> Tensor:
        """Of y."""
        return self.mean() if self.wanted_sum is None else self.wanted_sum / self.count

    def moment(self, *, centred: bool) -> Tensor:
        """The second moment of x or, `centred`, its covariance: ``[groups, columns, columns]``."""
        assert self.total is not None
        return self.total / self.count - (_outer(self.mean(), self.mean()) if centred else 0)

    def target(self, weight: Tensor, penalty: Tensor, *, centred: bool) -> Tensor:
        """The matrix V that makes of each x, in floats, what is nearest to what `weight` makes of y.

        That is the least of ``|W y - V x|^2`` over the rows and, `centred`, the best constant, plus `penalty` ``|V - W|^2``;
        both are the same where all x are y.

        Args:
            weight: ``[groups, rows, columns]``.
            penalty: ``[groups]``.
        """
        if self.cross is None:
            return weight
        cross = self.cross / self.count - (_outer(self.wanted_mean(), self.mean()) if centred else 0)
        moment = self.moment(centred=centred)
        off = (weight @ (cross - moment)).double()
        least = moment.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12) * 1e-6  # so that there is a solution
        kept = torch.diag_embed((penalty + least)[:, None].expand(moment.shape[:2]))
        return weight + torch.linalg.solve((moment + kept).double(), off.mT).mT.to(weight)


def _added(known: Tensor | None, new: Tensor) -> Tensor:
    return new if known is None else known.add_(new)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., None] * b[:, None]
