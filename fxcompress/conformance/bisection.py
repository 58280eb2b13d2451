"""The first node of a graph at which something fails, by looking at the graph's beginnings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from fxcompress.ir.dialect import copy_graph


def first_that_fails(graph_module: fx.GraphModule, fails: Callable[[fx.GraphModule], bool]) -> fx.Node:
    """The first node whose value, as the only output of the graph, makes it fail, where the one before it does not.

    The whole graph fails, with its own outputs; where no beginning of it does, the node of its last output is named. What
    follows a value is left out, not only unread: a runtime fuses what is before the cut as it does in the whole graph.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function" and _is_float(node)]
    if not nodes:
        return next(iter(graph_module.graph.find_nodes(op="output"))).all_input_nodes[0]
    low, high = 0, len(nodes) - 1  # the last one is taken to fail
    while low < high:
        middle = (low + high) // 2
        if fails(beginning(graph_module, nodes[middle])):
            high = middle
        else:
            low = middle + 1
    return nodes[low]


def beginning(graph_module: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """The graph up to `node`, which is its output; all inputs stay."""
    names = {old.name for old in graph_module.graph.nodes}
    graph = copy_graph(graph_module.graph)
    assert len(names) == len(graph.nodes)
    found = next(new for new in graph.nodes if new.name == node.name)
    (output,) = graph.find_nodes(op="output")
    output.args = ((found,),)
    output.meta = {**output.meta, "val": (node.meta["val"],)}
    graph.set_codegen(fx.graph.CodeGen())
    graph.eliminate_dead_code()
    return fx.GraphModule(graph_module, graph)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    computed = not all(source.op == "get_attr" for source in node.all_input_nodes)
    return computed and isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float64, torch.float16)
