"""The search for the range with the least Kullback-Leibler divergence.

Migacz, "8-bit inference with TensorRT", GTC 2017: absolute values are counted in many bins. For each threshold, the
values beyond it are counted in the last bin before it (the reference P); the bins before it are merged into as many as
the grid has levels, and each merged count is shared out evenly among those of its bins that are not empty (Q). The
threshold with the least divergence of Q from P is chosen. Zero is on every grid, so the innermost bin, where a ReLU
leaves most of its values, counts no more than its neighbour.

All thresholds are tried at once. With prefix sums of c log c, of c, and of the bins in use, the divergence needs a look
at the edges of the merged bins only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxcompress.quantizers.distribution import Distribution
from fxcompress.quantizers.spec import QuantizationSpec

THRESHOLDS = 128
"""At most so many thresholds are tried, evenly spaced from the number of levels to the last bin in use."""


def search(seen: Distribution, spec: QuantizationSpec) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of the best range found for `seen`, shape ``[rows]``, within its extremes."""
    counts, width = seen.magnitudes()
    signed = spec.is_signed(seen.low)
    rows = [_threshold(*row, spec, signed) for row in zip(counts.double(), width, seen.low, seen.high)]
    threshold = torch.stack(rows)
    return torch.maximum(seen.low, -threshold), torch.minimum(seen.high, threshold)


def _threshold(counts: Tensor, width: Tensor, low: Tensor, high: Tensor, spec: QuantizationSpec, signed: bool) -> Tensor:
    """The largest absolute value to represent, for one row."""
    counts = counts.clone()
    counts[0] = torch.minimum(counts[0], counts[1])
    used = counts.nonzero()
    ends = torch.arange(1, 1 + (int(used[-1]) + 1 if len(used) else 0))
    largest = torch.maximum(-low, high)
    levels = _levels(ends * width, low, high, spec, signed)
    ends, levels = ends[ends >= levels], levels[ends >= levels]
    if not len(ends):  # fewer bins than levels: nothing can be lost
        return largest
    step = -(-len(ends) // THRESHOLDS)
    ends, levels = ends.flip(0)[::step], levels.flip(0)[::step]  # the widest first, which wins a tie
    best = int(_divergences(counts, ends, levels).argmin())
    return largest if best == 0 else ends[best] * width


def _levels(threshold: Tensor, low: Tensor, high: Tensor, spec: QuantizationSpec, signed: bool) -> Tensor:
    """How many steps of the grid lie between zero and each of the thresholds: at least one."""
    lows, highs = torch.maximum(low.clamp(max=0.0), -threshold), torch.minimum(high.clamp(min=0.0), threshold)
    scale, _ = spec.fit(lows, highs, signed)
    return (torch.maximum(-lows, highs) / scale).round().long().clamp(min=1)


def _divergences(counts: Tensor, ends: Tensor, levels: Tensor) -> Tensor:
    """The divergence for the thresholds behind bin `ends` with so many `levels`; infinite where Q misses a value of P."""
    total = counts.sum()
    outside = total - _prefix(counts)[ends]
    # The reference: the counts, but for the last bin, which holds those outside too.
    last = counts[ends - 1]
    reference = _prefix(_x_log_x(counts))[ends] - _x_log_x(last) + _x_log_x(last + outside)
    edges = torch.arange(int(levels.max()) + 1) * ends[:, None] // levels[:, None]
    edges = torch.minimum(edges, ends[:, None])
    merged = _prefix(counts)[edges].diff(dim=1)
    bins = _prefix((counts > 0).double())[edges].diff(dim=1)
    # The last merged bin shares out among the bins of P in use, to which the last one may only belong by what is outside.
    final = levels[:, None] - 1
    extra = ((last == 0) & (outside > 0)).double()[:, None]
    bins = bins.scatter_add(1, final, extra)
    observed = merged.scatter_add(1, final, outside[:, None])
    shared = torch.where(observed > 0, observed * torch.log(merged / bins), 0.0).sum(1)
    inside = merged.sum(1)
    divergence = (reference - shared) / total - torch.log(total) + torch.log(inside)
    return divergence.nan_to_num(nan=torch.inf)  # nothing inside: infinite against infinite


def _x_log_x(x: Tensor) -> Tensor:
    return torch.xlogy(x, x)


def _prefix(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x.cumsum(0), (1, 0))
