"""What it costs in milliseconds to compute some layers otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import fx

from fxcompress.data.inputs import ExampleInputs
from fxcompress.measure import latency
from fxcompress.targets import Target


def prices(
    before: fx.GraphModule,
    after: fx.GraphModule,
    names: Sequence[str],
    example: ExampleInputs,
    lower: latency.Lower,
    target: Target,
) -> list[str]:
    """A sentence for each of the layers `names`, and one for the whole file, measured in OpenVINO.

    Args:
        before, after: graph modules with quantizers, which both have nodes of these names.
        lower: see `fxcompress.measure.latency.measure_latencies`.

    Raises:
        InputError: OpenVINO is not installed.
    """
    variants = {"before": before, "after": after}
    kernels = latency.measure_kernels(variants, example, lower)
    seconds = latency.measure_latencies(variants, example, lower)
    told = []
    for name in names:
        nodes = {which: next(n for n in module.graph.nodes if n.name == name) for which, module in variants.items()}
        old, new = (latency.seconds_of(kernels[which], nodes[which], target) * 1e3 for which in variants)
        told.append(f"{name}: {old:.3f} → {new:.3f} ms" if old or new else f"{name}: in the kernel of another layer")
    old, new = (float(np.median(seconds[which])) * 1e3 for which in variants)
    return [*told, f"the whole file: {old:.2f} → {new:.2f} ms"]
