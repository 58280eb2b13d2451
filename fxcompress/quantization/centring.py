"""Which ranges may have zero in their middle, where a runtime takes less time for integers without a zero point.

Of what a convolution reads, the zero point is part of its bias (`fxcompress.emit.zero_points`), but where it pads.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

from torch import Tensor, fx

from fxcompress.ir.signature import argument
from fxcompress.quantization.patches import CONVOLUTIONS
from fxcompress.quantizers.estimator import Range
from fxcompress.quantizers.output_error import WeighedStatistic

ALLOWED = 0.003
"""Share of the outputs' error, of all quantizers as their ranges stand, that all centred ranges may add.

It is an estimate, made on the samples of calibration: at 0.01 one range of MobileNetV2, that of its pictures, cost 0.2 dB on
pictures of other kinds.
"""


Name = TypeVar("Name", bound=Hashable)


def is_read_padded(quantizer: fx.Node) -> bool:
    """Whether a convolution that pads reads what the call `quantizer` puts out."""
    return any(reader.target in CONVOLUTIONS and any(argument(reader, "padding")) for reader in quantizer.users)


def centred(
    statistics: Mapping[Name, WeighedStatistic], ranges: Mapping[Name, Range], of: Collection[Name]
) -> dict[Name, Range]:
    """Ranges with as many steps below zero as above, for those of some that cost least by it, together no more than `ALLOWED`.

    Args:
        statistics, ranges: of all quantizers, by name.
        of: names of those that may be wider.
    """
    costs = {name: statistic.cost(ranges[name]) for name, statistic in statistics.items()}
    wider = {
        name: _centred(ranges[name], statistics[name].spec.levels(False))
        for name in of
        if _has_zero_point(statistics[name], *ranges[name])
    }
    more = {name: statistics[name].cost(found) - costs[name] for name, found in wider.items()}
    left, chosen = ALLOWED * sum(costs.values()), {}
    for name in sorted(more, key=lambda name: more[name]):
        left -= max(more[name], 0.0)
        if left < 0:
            break
        chosen[name] = wider[name]
    return chosen


def _has_zero_point(statistic: WeighedStatistic, low: Tensor, high: Tensor) -> bool:
    return statistic.per_tensor and not statistic.spec.symmetric and bool(low < 0 < high)


def _centred(span: Range, levels: tuple[int, int]) -> Range:
    """`span`, wider, as it is where the zero point of `levels` is in their middle."""
    low, high = span
    middle = (levels[0] + levels[1] + 1) // 2
    step = (low / (levels[0] - middle)).maximum(high / (levels[1] - middle))
    return step * (levels[0] - middle), step * (levels[1] - middle)
