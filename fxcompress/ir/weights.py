"""What the tensors are that a graph reads: numbers that can be computed with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from fxcompress.errors import InputError
from fxcompress.ir.edit import attribute
from fxcompress.ir.modes import running_variances


def check_weights(graph_module: fx.GraphModule) -> None:
    """Raise InputError for a parameter that `graph_module` reads and that is empty or not finite, or a buffer with NaN.

    So too for those of the modules that it calls. A running variance is not below zero either: the norm would return NaN. And
    a tensor has the type that the graph was made for, which ``.half()`` and ``.double()`` change.
    """
    for node in graph_module.graph.find_nodes(op="get_attr"):
        held, made_for = attribute(graph_module, str(node.target)), node.meta.get("val")
        if isinstance(held, Tensor) and isinstance(made_for, Tensor) and held.dtype != made_for.dtype:
            kinds = " now, and was ".join(str(one.dtype).removeprefix("torch.") for one in (held, made_for))
            raise InputError(
                f"{str(node.target)!r} is {kinds} when the model was compiled; convert it back, or before compiling"
            )
    for name, held in _read(graph_module):
        trained = isinstance(held, nn.Parameter)
        if trained and held.numel() == 0:
            raise InputError(f"the parameter {name!r} is empty, of the shape {list(held.shape)}; leave its layer out")
        if not (held.is_floating_point() or held.is_complex()) or held.numel() == 0:
            continue
        ends = torch.stack((torch.view_as_real(held) if held.is_complex() else held).detach().aminmax())  # no copy as large
        if ends.isnan().any() or (trained and ends.isinf().any()):
            what = "parameter" if trained else "buffer"
            raise InputError(f"the {what} {name!r} holds NaN or infinity; repair the weights, or load them again")
    for name in running_variances(graph_module.graph):
        if bool((attribute(graph_module, name) < 0).any()):
            raise InputError(f"the running variance {name!r} is below zero; repair the weights, or load them again")


def _read(graph_module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the graph reads, itself or in modules that it calls, by their names."""
    for node in graph_module.graph.nodes:
        held = attribute(graph_module, str(node.target)) if node.op in ("get_attr", "call_module") else None
        if isinstance(held, Tensor):
            yield str(node.target), held
        elif isinstance(held, nn.Module):
            for name, tensor in (*held.named_parameters(), *held.named_buffers()):
                yield f"{node.target}.{name}", tensor
