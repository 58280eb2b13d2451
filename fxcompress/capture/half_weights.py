"""Large weights of half precision, as checkpoints come: each stays as it is, and a cast behind it gives its floats when asked.

Passes take such a cast for the weight (`fxcompress.ir.constants`). So no more than one weight is in float32 at a time, as long
as what replaces it is no float32 either.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.ir.constants import CAST, COMPUTED, HALF, is_widened
from fxcompress.ir.edit import attribute

_LARGE = 1 << 20
"""Values from which on a copy in float32 counts: what is smaller is norms and biases."""


def stays(tensor: Any) -> bool:
    """Whether the weight `tensor` is left in half precision at first."""
    return isinstance(tensor, nn.Parameter) and tensor.dtype in HALF and tensor.numel() >= _LARGE


def read_through_casts(module: fx.GraphModule) -> None:
    """Let whatever reads a weight that `stays` read its cast to float32, one for all, right before the first that reads it."""
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    names: dict[Tensor, list[fx.Node]] = defaultdict(list)
    for node in module.graph.find_nodes(op="get_attr"):
        if stays(tensor := attribute(module, str(node.target))):
            names[tensor].append(node)
    for tensor, nodes in names.items():
        readers = [user for node in nodes for user in node.users]
        if not readers:
            continue
        with module.graph.inserting_before(min(readers, key=order.__getitem__)):
            cast = module.graph.call_function(CAST, (nodes[0],), {"dtype": torch.float32})
        cast.meta = {**nodes[0].meta}
        for node in nodes:
            node.meta["val"] = node.meta["val"].to(tensor.dtype)
            node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast, propagate_meta=False)


def widen(module: fx.GraphModule) -> None:
    """Put weights that have been left in half precision in float32, all of them, and take their casts away."""
    done: dict[int, Tensor] = {}
    for owner in module.modules():
        for name, tensor in owner._parameters.items():
            if stays(tensor):
                owner._parameters[name] = done.setdefault(id(tensor), _in_float32(tensor))  # type: ignore[arg-type, assignment]
    if not done:
        return
    for cast in filter(is_widened, module.graph.find_nodes(op="call_function", target=CAST)):
        (weight,) = cast.all_input_nodes
        cast.args, cast.kwargs, cast.op, cast.target = (), {}, "get_attr", weight.target  # so it keeps the name
        cast.meta.pop(COMPUTED, None)
        module.graph.erase_node(weight)
    module.recompile()


def _in_float32(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().float(), weight.requires_grad)
