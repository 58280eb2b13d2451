"""Which ranges are narrower than their values: those that the outputs gain something by, as far as can be told.

The samples that ranges are chosen on are few, and other data go farther. What a range gains by rounding more finely is known
well, for all values tell it; what it loses by saturation is known from the few samples that reach beyond it. So a range is
narrowed only where the gain is a share of the whole error, and where enough samples say what saturation costs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from fxcompress.quantizers.output_error import WeighedStatistic

WORTH = 0.01
"""Share of the outputs' error, of all quantizers as their ranges stand, that is to be gained by a narrower one."""

WITNESSES = 0.1
"""Share of the samples that have values beyond a range, for what it cuts off to be known."""

Name = TypeVar("Name", bound=Hashable)


def worth_narrowing(statistics: Mapping[Name, WeighedStatistic]) -> list[Name]:
    """Those whose choice is to take the place of the range from the lowest to the highest value, the greatest gain first.

    Each lowers the error that the next one's gain is a share of: one range that is far too wide hides what others cost.
    """
    widest = {name: statistic.cost(statistic.extremes) for name, statistic in statistics.items()}
    gains = {
        name: widest[name] - statistic.cost(statistic.result())
        for name, statistic in statistics.items()
        if statistic.witnesses(statistic.result()) >= WITNESSES
    }
    error, worth = sum(widest.values()), []
    for name in sorted(gains, key=lambda name: gains[name], reverse=True):
        if gains[name] <= WORTH * error:
            break
        worth.append(name)
        error -= gains[name]
    return worth
