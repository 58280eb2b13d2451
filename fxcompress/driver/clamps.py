"""In training a quantizer clamps as the activation before it did: one pass over memory each way, where both took two."""

from __future__ import annotations

import math

import torch
from torch import fx

from fxcompress.ir.edit import called
from fxcompress.ir.signature import argument
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.trainable import TrainableQuantizer

_RELU, _HARDTANH = torch.ops.aten.relu.default, torch.ops.aten.hardtanh.default
"""What has no gradient at its bounds, as the kernels of quantizers have none."""

_CLAMPING = (Quantizer, TrainableQuantizer)
"""The quantizers whose `forward` is known to clamp; one of a user's own may have another."""


def hand_over(graph_module: fx.GraphModule, graph: fx.Graph) -> bool:
    """Let the quantizers of `graph_module` that alone read a clamp in `graph` do it; whether there are any."""
    found = False
    for node in graph.find_nodes(op="call_module"):
        clamp = node.args[0]
        alone = isinstance(clamp, fx.Node) and clamp.target in (_RELU, _HARDTANH) and len(clamp.users) == 1
        if alone and type(called(graph_module, node, Quantizer)) in _CLAMPING:
            low, high = (0.0, math.inf) if clamp.target is _RELU else (argument(clamp, name) for name in ("min_val", "max_val"))
            node.args, node.kwargs = (clamp.args[0],), {"within": (float(low), float(high))}
            graph.erase_node(clamp)
            found = True
    return found
