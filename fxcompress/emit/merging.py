"""What two nodes compute alike is computed once: a runtime that merges them itself gives a value readers that nobody saw."""

from __future__ import annotations

import onnx_ir as ir

from fxcompress.emit.rewiring import take_over

_RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def merge_equal(graph: ir.Graph) -> None:
    """Leave one of several nodes of the same operator, with the same inputs and attributes.

    Where both of two put out results of the graph, both stay.
    """
    seen: dict[object, ir.Node] = {}
    for node in list(graph):
        first = seen.setdefault(_computation(node), node)
        pairs = list(zip(node.outputs, first.outputs))
        if first is node or any(value.is_graph_output() and kept.is_graph_output() for value, kept in pairs):
            continue
        for value, kept in pairs:
            if value.is_graph_output():
                kept.type, kept.shape = value.type, value.shape
                take_over(graph, value, kept)
            for reader, place in list(value.uses()):
                reader.replace_input_with(place, kept)
        graph.remove(node, safe=True)


def _computation(node: ir.Node) -> object:
    """What tells the computation of `node` from others: itself, where it is random, or has attributes that do not compare."""
    attributes = []
    for name, held in sorted(node.attributes.items()):
        if held.type in (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return node
        attributes.append((name, held.type, tuple(held.value) if isinstance(held.value, (list, tuple)) else held.value))
    if node.op_type in _RANDOM:
        return node
    return node.op_identifier(), len(node.outputs), tuple(map(id, node.inputs)), tuple(attributes)
