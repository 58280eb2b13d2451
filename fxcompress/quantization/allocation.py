"""Which choice to take for each of many things, where their costs share a budget: a knapsack with several choices each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CELLS = 20_000
"""In so many parts the budget is divided: what a choice costs is rounded up to whole ones."""


def allocate(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> list[int] | None:
    """For each thing the index of a choice, such that the sum of losses is least and that of costs within `budget`.

    By dynamic programming over the budget spent (Kellerer, Pferschy and Pisinger, Knapsack Problems, section 11.5). Exact
    where the budget is at most `CELLS`; else costs are rounded up to `CELLS`-ths of the budget, which is kept all the same.

    Args:
        costs, losses: of each choice for each thing; costs are whole numbers, 0 or more.

    Returns:
        None where even the cheapest choices cost more than the budget.
    """
    unit = max(-(-budget // CELLS), 1)
    cells = budget // unit
    best = np.zeros(cells + 1)  # the least loss of the things so far, within so many units
    taken = []
    for cost, loss in zip(costs, losses, strict=True):
        options = np.full((len(cost), cells + 1), np.inf)
        for option, price, lost in zip(options, cost, loss, strict=True):
            used = -(-price // unit)
            if used <= cells:
                option[used:] = best[: cells + 1 - used] + lost
        taken.append(options.argmin(0))
        best = options.min(0)
    if not np.isfinite(best[cells]):
        return None
    chosen, left = [], cells
    for cost, choice in zip(reversed(costs), reversed(taken)):
        chosen.append(int(choice[left]))
        left -= -(-cost[chosen[-1]] // unit)
    return chosen[::-1]
