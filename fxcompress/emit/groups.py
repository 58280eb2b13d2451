"""Weights with scales for groups, in groups of sizes whose sums a runtime computes rightly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import numbers_of

_FOUR_BITS = {ir.DataType.INT4, ir.DataType.UINT4}


def groups_divided(graph: ir.Graph) -> int:
    """Divide groups into equal ones of a size that is taken, with the same scale."""
    sizes = {node: node.attributes.get_int("block_size") or 0 for node in graph if node.op_type == "DequantizeLinear"}
    found = {node: size for node, size in sizes.items() if size and not _is_taken(node, size)}
    for node, size in found.items():
        smaller = max(one for one in range(1, size) if size % one == 0 and _is_taken(node, one))
        _repeat_scales(graph, node, size // smaller)
        node.attributes["block_size"] = ir.AttrInt64("block_size", smaller)
    return len(found)


def _is_taken(node: ir.Node, size: int) -> bool:
    """Whether groups of this `size` are added up: the smallest; of 4 bits, pairs up to 32 and multiples of it; of 8, fours."""
    assert node.inputs[0] is not None
    if size <= 4:
        return True
    if node.inputs[0].dtype in _FOUR_BITS:
        return size % 32 == 0 or (size < 32 and size % 2 == 0)
    return size % 4 == 0


def _repeat_scales(graph: ir.Graph, node: ir.Node, times: int) -> None:
    axis = node.attributes.get_int("axis", 1)
    for place, value in list(enumerate(node.inputs))[1:]:
        numbers, name = numbers_of(value), f"{value.name}_{times}" if value is not None else ""
        if numbers is None or value is None or value.dtype is None:
            continue
        if name not in graph.initializers:
            tensor = ir.tensor(np.repeat(numbers, times, axis), dtype=value.dtype, name=name)
            kind = ir.TensorType(value.dtype)
            graph.register_initializer(ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=kind, const_value=tensor))
        node.replace_input_with(place, graph.initializers[name])
