"""Ranges from the lowest to the highest value, for models that are looked at on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from fxcompress.data.batch import Leaves
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.observe import values_at
from fxcompress.quantization.quantized import in_float, quantizer_calls, serves_weight
from fxcompress.quantizers.estimator import Statistic
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import ESTIMATORS


@torch.no_grad()
def set_extremes(graph_module: fx.GraphModule, batches: Sequence[Leaves]) -> None:
    """Give each quantizer of activations the range of what it reads in the float model, on `batches`.

    One that is brought nothing, or what is not finite, stays as it is.
    """
    calls = {node: quantizer for node, quantizer in quantizer_calls(graph_module).items() if not serves_weight(node)}
    if not calls:
        return
    seen: dict[Quantizer, Statistic] = {}
    with in_float(graph_module):
        arithmetic = choose_arithmetic("auto", graph_module, batches[0])
        for leaves in batches:
            for node, x in values_at(graph_module, calls, leaves, arithmetic):
                quantizer = calls[node]
                if quantizer not in seen:
                    channels = quantizer.scale.numel() if quantizer.scale.dim() else None
                    seen[quantizer] = ESTIMATORS["min_max"].start(quantizer.spec, channels)
                seen[quantizer].update(x)
    for quantizer, statistic in seen.items():
        low, high = statistic.result()
        if low.isfinite().all() and high.isfinite().all():
            quantizer.set_range(low, high)
