"""From a compiled graph to the one that is written to a file."""

from __future__ import annotations

from torch import fx

from fxcompress import defaults, pipeline
from fxcompress.dialect import copy_graph
from fxcompress.inputs import ExampleInputs
from fxcompress.pipeline import Context
from fxcompress.targets import Target


def lower(
    graph_module: fx.GraphModule, example: ExampleInputs, target: Target, *, binary_convolutions: bool = False
) -> fx.GraphModule:
    """A lowered copy of `graph_module`: quantize and dequantize operations, integer weights.

    Its ``meta["report"]`` tells what the lowering did. With `binary_convolutions` it has the operation of that name, which
    only OpenVINO's own format can hold.

    Raises:
        PlanError: a quantizer has no range yet.
        VerificationError: the lowered graph does not compute what `graph_module` computes.
    """
    lowered = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
    passes = defaults.lowering(binary_convolutions=binary_convolutions)
    lowered.meta["report"] = pipeline.run(lowered, passes, Context(example, target))
    return lowered
