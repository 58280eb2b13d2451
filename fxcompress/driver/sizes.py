"""What the weights of a graph take in a file."""

from __future__ import annotations

import torch
from torch import fx

from fxcompress.ir.edit import attribute


def weight_bytes(graph_module: fx.GraphModule) -> int:
    """Bytes of the tensors that the graph reads, each as it will be in a file: integers with their scales and zero points."""
    seen: dict[int, int] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.users:
            tensor = attribute(graph_module, node.target)
            if isinstance(tensor, torch.Tensor):
                written = next(_modules_after(graph_module, node), None)
                seen[id(tensor)] = written.bytes_in_file(tensor.numel()) if written else tensor.nbytes
    return sum(seen.values())


def _modules_after(graph_module: fx.GraphModule, node: fx.Node):
    """The modules behind a constant, one after the other, that say how it is stored."""
    for user in node.users:
        if user.op == "call_module":
            module = graph_module.get_submodule(user.target)
            if hasattr(module, "bytes_in_file"):
                yield module
            yield from _modules_after(graph_module, user)
