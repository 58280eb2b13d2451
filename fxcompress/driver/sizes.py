"""What the weights of a graph take in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxcompress.ir.constants import interior, is_computed, is_constant
from fxcompress.ir.edit import attribute
from fxcompress.ir.reach import reached


def weight_bytes(graph_module: fx.GraphModule) -> int:
    """Bytes of the tensors that the graph reads, each as it will be in a file: integers with their scales and zero points.

    Of a weight that is computed from others a file has what is computed.
    """
    nodes = graph_module.graph.nodes
    seen, inside = dict[object, int](), interior(graph_module.graph).union(filter(is_computed, nodes))
    for node in nodes:
        if is_constant(node) and not inside.issuperset(node.users):
            tensor = attribute(graph_module, node.target) if node.op == "get_attr" else node.meta["val"]
            if isinstance(tensor, torch.Tensor):
                written = next(_modules_after(graph_module, node), None)
                key = id(tensor) if node.op == "get_attr" else node
                seen[key] = written.bytes_in_file(tensor.numel()) if written else tensor.numel() * tensor.itemsize
    return sum(seen.values())


def _modules_after(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[Any]:
    """The modules behind a constant, one after the other, that say how it is stored."""
    stages = reached([node], lambda one: (user for user in one.users if user.op == "call_module"))
    modules = (graph_module.get_submodule(str(one.target)) for one in stages if one is not node)
    return (module for module in modules if hasattr(module, "bytes_in_file"))
