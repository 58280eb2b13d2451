"""From a compiled graph to the one that is written to a file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.interface import Context, Pass
from fxcompress.driver.ownership import own
from fxcompress.driver.run import run
from fxcompress.ir.modes import inference_twin
from fxcompress.ir.weights import check_weights
from fxcompress.targets import Target


def lower(graph_module: fx.GraphModule, passes: Sequence[Pass], example: ExampleInputs, target: Target) -> fx.GraphModule:
    """A copy of `graph_module`, as it is now, in inference mode, lowered by `passes`: quantize and dequantize operations.

    Weights are integers. Its ``meta["report"]`` tells what the lowering did.

    Raises:
        InputError: a weight is NaN or infinite, as where training diverged.
        PlanError: a quantizer has no range yet.
        VerificationError: the lowered graph does not compute what `graph_module` computes.
    """
    lowered = inference_twin(graph_module)
    if graph_module.training:  # another thread may go on with that; of a model in inference mode nothing is copied
        own(lowered, {}, graph_module)
    check_weights(lowered)
    lowered.meta["report"] = run(lowered, passes, Context(example, target))
    return lowered
