"""Bytes and booleans that a model makes floats of, where a runtime would take that for the dequantization of its own."""

from __future__ import annotations

import onnx_ir as ir

from fxcompress.emit.rewiring import MOVES, follow, minus_infinity, numbers_of, type_of
from fxcompress.ir.reach import reached

_BYTES = {ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8}


def conversions_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand behind what makes floats of bytes or booleans that are computed."""
    found = [node for node in graph if node.op_type == "Cast" and _makes_floats_of_bytes(node)]
    infinity = minus_infinity(graph)
    for node in found:
        follow(graph, node.outputs[0], "Max", infinity)
    return len(found)


def _makes_floats_of_bytes(cast: ir.Node) -> bool:
    value = cast.inputs[0]
    is_float = cast.attributes.get_int("to") == ir.DataType.FLOAT
    return is_float and type_of(value) in _BYTES and not _is_of_a_table(value)


def _is_of_a_table(value: ir.Value | None) -> bool:
    """Whether `value` is constant, or looked up in a constant, as the bytes of embeddings are that this compiler quantized."""
    node = value.producer() if value is not None else None
    met = reached([node] if node else [], lambda source: source.predecessors() if source.op_type in MOVES else ())
    return numbers_of(value) is not None or any(
        one.op_type == "Gather" and numbers_of(one.inputs[0]) is not None for one in met
    )
