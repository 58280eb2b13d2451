"""Batch norms whose running statistics are not those of the data: what they compute in training is something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.errors import TrainingWarning, describe, warn_user
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.precision import FLOAT32
from fxcompress.ir.modes import batch_norms
from fxcompress.ir.signature import argument

FAR = 300.0
"""How many times one of the two variances, the data's and a norm's, may be the other: 17 times the width of values.

Those of a trained network shown noise, or pictures a hundredth as bright, are up to 20 apart at the median norm; those of
networks fresh from their initialization whose gradients explode, 2,000 and more.
"""


def warn_of_unsettled_norms(graph_module: fx.GraphModule, leaves: Sequence[Any]) -> None:
    """Warn where batch norms that train compute far other values in training than in inference, on the inputs `leaves`.

    Ranges are chosen by what a model computes in inference, with the statistics that its norms have. Those of an untrained
    network are of nothing: in training all values then lie beyond their ranges, norms see no variance in what is cut off, and
    gradients grow by the root of its inverse in every layer.

    Warns:
        TrainingWarning: names the first such norm.
    """
    norms = [node for node in batch_norms(graph_module.graph) if not node.meta.get("frozen")]
    far, execution = [], Execution(graph_module, leaves, FLOAT32)
    for node in norms:
        execution.advance(node)
        x, variance = (execution.value(argument(node, name)) for name in ("input", "running_var"))
        if _ratio(x, variance) > FAR:
            far.append(node)
    if 2 * len(far) > len(norms):  # a few channels that are never seen are nothing
        warn_user(
            f"{len(far)} of {len(norms)} batch norms have statistics of other data than this, the first is {describe(far[0])}: "
            "in training the model computes values far from those that ranges are chosen by, and gradients explode. Let the "
            "model run in training mode over some batches before it is compiled, or load the weights that it was trained to",
            TrainingWarning,
        )


def _ratio(x: Tensor, variance: Tensor) -> float:
    """Of the variances of the channels of `x` and those that a norm has, the larger to the smaller, at the median channel."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    seen, held = x.double().var(axes, correction=0), variance.double()
    smallest = torch.finfo(torch.float32).tiny
    ratio = ((seen + smallest) / (held + smallest)).log().median().abs()
    return float(ratio.exp())
