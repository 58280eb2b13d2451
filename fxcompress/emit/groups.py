"""Weights of few bits, in groups and rows whose sums a runtime computes rightly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import constant, numbers_of, put_before

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


def odd_rows_in_bytes(graph: ir.Graph) -> int:
    """Have matrices of 4 bits and an odd number of rows multiplied in 8, which are what a cast makes of them."""
    found = [node for node in graph if node.op_type == "DequantizeLinear" and _has_odd_rows(node)]
    for node in found:
        assert node.inputs[0] is not None
        signed = node.inputs[0].dtype == ir.DataType.INT4
        points = numbers_of(node.inputs[2]) if len(node.inputs) > 2 else None
        put_before(graph, node, "Cast").attributes["to"] = ir.AttrInt64("to", ir.DataType.INT8 if signed else ir.DataType.UINT8)
        if points is not None:
            wide = points.astype(np.int8 if signed else np.uint8)
            node.replace_input_with(2, constant(graph, wide, f"{node.inputs[2].name}/bytes"))  # type: ignore[union-attr]
    return len(found)


def _has_odd_rows(node: ir.Node) -> bool:
    """Whether a product reads the 4-bit numbers of `node`, in columns of an odd number of them that share a scale."""
    numbers = node.inputs[0]
    if numbers is None or numbers.dtype not in _FOUR_BITS or node.attributes.get_int("block_size"):
        return False
    multiplied = any(use.node.op_type == "MatMul" and use.idx == 1 for use in node.outputs[0].uses())
    shape = numbers.shape.numpy() if numbers.shape is not None else ()
    return multiplied and len(shape) == 2 and shape[0] % 2 > 0


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
