"""Which choice to take for each of many things, where their costs share a budget: a knapsack with several choices each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CELLS = 20_000
"""In so many parts the budget is divided: what a choice costs is rounded up to whole ones."""


_TIE = 1e-9
"""The relative difference in loss that rounding makes of none."""


def allocate(
    costs: Sequence[Sequence[int]],
    losses: Sequence[Sequence[float]],
    budget: int,
    merits: Sequence[Sequence[float]] | None = None,
) -> list[int] | None:
    """For each thing the index of a choice, such that the sum of losses is least and that of costs within `budget`.

    By dynamic programming over the budget spent (Kellerer, Pferschy and Pisinger, Knapsack Problems, section 11.5). Exact
    where the budget is at most `CELLS`; else costs are rounded up to `CELLS`-ths of the budget, which is kept all the same.

    Args:
        costs, losses: of each choice for each thing; costs are whole numbers, 0 or more.
        merits: of each choice for each thing; of choices that lose as little, those with the largest sum are taken.

    Returns:
        None where even the cheapest choices cost more than the budget.
    """
    unit = max(-(-budget // CELLS), 1)
    cells = budget // unit
    best, merit = np.zeros(cells + 1), np.zeros(cells + 1)  # of the things so far, within so many units
    taken = []
    for cost, loss, worth in zip(costs, losses, merits or [[0.0] * len(cost) for cost in costs], strict=True):
        options, worths = np.full((2, len(cost), cells + 1), np.inf)
        for option, sums, price, lost, more in zip(options, worths, cost, loss, worth, strict=True):
            used = -(-price // unit)
            if used <= cells:
                option[used:] = best[: cells + 1 - used] + lost
                sums[used:] = merit[: cells + 1 - used] + more
        least = options.min(0)
        choice = np.where(options <= least * (1 + _TIE), worths, -np.inf).argmax(0)
        taken.append(choice)
        best, merit = (np.take_along_axis(found, choice[None], 0)[0] for found in (options, worths))
    if not np.isfinite(best[cells]):
        return None
    chosen, left = [], cells
    for cost, choice in zip(reversed(costs), reversed(taken)):
        chosen.append(int(choice[left]))
        left -= -(-cost[chosen[-1]] // unit)
    return chosen[::-1]
