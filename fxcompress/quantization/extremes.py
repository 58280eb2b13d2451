"""Ranges from the lowest to the highest value, for models that are looked at on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from fxcompress.data.batch import Leaves
from fxcompress.data.samples import in_small_batches
from fxcompress.execution.observe import values_at
from fxcompress.execution.precision import FLOAT32
from fxcompress.quantization.quantized import in_float, quantizer_calls, serves_weight
from fxcompress.quantizers.estimator import Range, Statistic
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import ESTIMATORS
from fxcompress.storage.memory import give_back

TOGETHER = 8
"""Samples that run together: their values are held at once."""

Known = dict[str, Range]
"""Ranges by the name of a value and what it is computed from."""


@torch.no_grad()
def set_extremes(graph_module: fx.GraphModule, batches: Sequence[Leaves], known: Known | None = None) -> None:
    """Give each quantizer of activations the range of what it reads in the float model, on `batches`.

    One that is brought nothing, or what is not finite, stays as it is.

    Args:
        known: of values that were seen before, which are taken from here, and those that were not are added.
    """
    calls = {node: quantizer for node, quantizer in quantizer_calls(graph_module).items() if not serves_weight(node)}
    read = {node: _computed(node.all_input_nodes[0]) for node in calls}
    known = {} if known is None else known
    if not known.keys() >= set(read.values()):
        for node, statistic in _observed(graph_module, calls, batches).items():
            known[read[node]] = statistic.result()
    ranges: dict[Quantizer, Range] = {}
    for node, quantizer in calls.items():
        low, high = known.get(read[node], _NOTHING)
        others = ranges.get(quantizer, _NOTHING)
        ranges[quantizer] = torch.minimum(low, others[0]), torch.maximum(high, others[1])
    for quantizer, (low, high) in ranges.items():
        if low.isfinite().all() and high.isfinite().all():
            quantizer.set_range(low, high)


_NOTHING = torch.tensor(torch.inf), torch.tensor(-torch.inf)


def _computed(value: fx.Node) -> str:
    return f"{value.name} of {value.args} {value.kwargs}"


def _observed(
    graph_module: fx.GraphModule, calls: Mapping[fx.Node, Quantizer], batches: Sequence[Leaves]
) -> dict[fx.Node, Statistic]:
    """What the quantizers of `calls` see of `batches`, in float32; one that sees nothing is left out."""
    found: dict[fx.Node, Statistic] = {}
    with in_float(graph_module):
        for leaves, _ in in_small_batches(graph_module.graph, batches, TOGETHER):
            for node, x in values_at(graph_module, calls, leaves, FLOAT32):
                if node not in found:
                    quantizer = calls[node]
                    channels = quantizer.scale.numel() if quantizer.scale.dim() else None
                    found[node] = ESTIMATORS["min_max"].start(quantizer.spec, channels)
                found[node].update(x)
    give_back()
    return found
