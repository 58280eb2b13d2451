"""An order of channels in which no two neighbours are both large in one row (`fxcompress.quantizers.neighbours` says why)."""

from __future__ import annotations

import torch
from torch import Tensor


def excess(rows: Tensor) -> Tensor:
    """By how much any two columns of `rows`, as neighbours, would be beyond what fits: [columns, columns], symmetric.

    Args:
        rows: weights, [rows, columns], divided by the largest of their channel, which has 128 steps.
    """
    found = rows.new_zeros(rows.shape[1], rows.shape[1])
    for one, column in enumerate(rows.T):
        large = column.abs() > 0.5  # one of two is
        alike = rows[large] * column[large].sign()[:, None]
        found[one] = alike.add_(column[large].abs()[:, None] - 1).clamp_(min=0).sum(0)
    return found + found.T


def apart(costs: Tensor) -> Tensor:
    """An order of even length whose neighbours, two and two, cost little: who is hardest to place chooses first."""
    costs = costs.cpu().clone().fill_diagonal_(torch.inf)
    hardest = costs.nan_to_num(posinf=0).sum(1).argsort(descending=True, stable=True)
    taken, order = torch.zeros(len(costs), dtype=torch.bool), list[int]()
    for one in hardest.tolist():
        if not taken[one]:
            taken[one] = True
            other = int(costs[one].masked_fill(taken, torch.inf).argmin())
            taken[other] = True
            order += [one, other]
    return torch.tensor(order)
