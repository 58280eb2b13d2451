"""The types that a file takes and gives, where they cannot be the model's."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.dialect import copy_graph, resolve

_CAST = resolve("_to_copy")

_AWKWARD = {torch.bfloat16, torch.float64}
"""numpy, by which runtimes are called, has no bfloat16; OpenVINO's CPU plugin takes no float64."""


def with_float32_interface(graph_module: fx.GraphModule) -> fx.GraphModule:
    """`graph_module`, which computes in float32, with float32 for inputs and outputs of bfloat16 and float64."""
    output = graph_module.graph.output_node()
    leaves = [*graph_module.graph.find_nodes(op="placeholder"), *pytree.tree_leaves(output.args)]
    if not any(_dtype(leaf) in _AWKWARD for leaf in leaves):
        return graph_module
    changed = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
    changed.meta = dict(graph_module.meta)
    for node in changed.graph.find_nodes(op="placeholder"):
        if _dtype(node) in _AWKWARD:
            node.meta["val"] = node.meta["val"].float()
            _read_uncast(node)
    output = changed.graph.output_node()
    for node in pytree.tree_leaves(output.args):
        if _dtype(node) in _AWKWARD and node.target is _CAST and _dtype(node.args[0]) is torch.float32:
            output.replace_input_with(node, node.args[0])
    changed.graph.eliminate_dead_code()
    changed.recompile()
    return changed


def float32_inputs(example: ExampleInputs) -> ExampleInputs:
    """`example` as `with_float32_interface` takes it."""
    return ExampleInputs(
        *pytree.tree_map_only(Tensor, lambda x: x.float() if x.dtype in _AWKWARD else x, (example.args, example.kwargs))
    )


def _dtype(leaf: object) -> torch.dtype | None:
    value = leaf.meta.get("val") if isinstance(leaf, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


def _read_uncast(node: fx.Node) -> None:
    """Let what reads `node` as float32 read it as it is."""
    for cast in [user for user in node.users if user.target is _CAST and user.kwargs == {"dtype": torch.float32}]:
        cast.replace_all_uses_with(node, propagate_meta=False)
        node.graph.erase_node(cast)
