"""The first node of a graph at which something fails, by looking at the graph's beginnings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from fxcompress.ir.dialect import copy_graph

_ROUNDED = {torch.int8, torch.uint8}


def first_that_fails(graph_module: fx.GraphModule, fails: Callable[[fx.GraphModule], bool]) -> fx.Node:
    """The first node with which the graph's beginning fails; the last one, where it takes the whole graph to fail.

    The beginning of a graph puts out all values that were computed and are still to be read: a wrong one, or its wrong
    successor, is among them from the first fault on. What comes after the cut is left out, not only unread, so that a runtime
    fuses what is before it as it does in the whole graph.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function" and _is_value(node)]
    if not nodes:
        (output,) = graph_module.graph.find_nodes(op="output")
        return output
    low, high = 0, len(nodes) - 1
    while low < high:
        middle = (low + high) // 2
        if fails(beginning(graph_module, nodes[middle])):
            high = middle
        else:
            low = middle + 1
    return nodes[low]


def beginning(graph_module: fx.GraphModule, last: fx.Node) -> fx.GraphModule:
    """The graph up to `last`, whose outputs are what is read behind it; all inputs stay."""
    before: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        before.add(node)
        if node is last:
            break
    read = [node for node in graph_module.graph.nodes if node in before and not before.issuperset(node.users)]
    put_out = [node.name for node in read if node.op == "call_function" and _is_value(node)]
    graph = copy_graph(graph_module.graph)
    copies = {node.name: node for node in graph.nodes}
    (output,) = graph.find_nodes(op="output")
    output.args = (tuple(copies[name] for name in put_out),)
    output.meta = {**output.meta, "val": tuple(copies[name].meta["val"] for name in put_out)}
    graph.set_codegen(fx.graph.CodeGen())
    graph.eliminate_dead_code()
    return fx.GraphModule(graph_module, graph)


def _is_value(node: fx.Node) -> bool:
    """Whether `node` is a tensor computed from inputs, and none of the integers between a quantize and its dequantize."""
    value = node.meta.get("val")
    computed = any(source.op != "get_attr" for source in node.all_input_nodes)
    return computed and isinstance(value, Tensor) and value.dtype not in _ROUNDED
