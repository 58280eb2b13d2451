"""What is joined or expanded and quantized, where a runtime would move the quantizer in front of that, and fail there."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from fxcompress.emit.kernels import is_from
from fxcompress.emit.rewiring import (
    MOVES,
    POINTWISE,
    constant,
    dequantize_of,
    follow,
    lift,
    numbers_of,
    rank_of,
    readers,
    shield,
)
from fxcompress.emit.translate.binarization import BINARY_CONVOLUTION


def joins_quantized_apart(graph: ir.Graph) -> int:
    """Give what is joined a dimension more while it is quantized, where it is not joined along the channels of its reader."""
    found = [node for node in graph if node.op_type == "QuantizeLinear" and _joins_rows(node)]
    for node in found:
        lift(graph, node, 0)
        node.outputs[0].type = node.outputs[0].shape = None
        for dequantize, _ in node.outputs[0].uses():
            follow(graph, dequantize.outputs[0], "Squeeze", constant(graph, [0]))
    return len(found)


def _joins_rows(quantize: ir.Node) -> bool:
    joined = quantize.inputs[0].producer()  # type: ignore[union-attr]
    while joined is not None and joined.op_type in POINTWISE:
        joined = joined.inputs[0].producer()  # type: ignore[union-attr]
    rank = rank_of(joined.outputs[0]) if joined is not None else 0
    if joined is None or joined.op_type != "Concat" or not rank:
        return False
    channels = {"MatMul": rank - 1, "Gemm": rank - 1, "Conv": 1, "ConvTranspose": 1}
    axis = joined.attributes.get_int("axis", 1) % rank
    dequantized = (dequantize.outputs[0] for dequantize, _ in quantize.outputs[0].uses())
    return any(channels.get(reader.op_type, axis) != axis for value in dequantized for reader in readers(value))


def expansions_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between what expands a value and its quantizer."""
    expanded = [node for node in graph if node.op_type == "Expand" or _adds_nothing(node)]
    read = {reader for node in expanded for reader in readers(node.outputs[0])}
    return shield(graph, [(node, 0) for node in graph if node.op_type == "QuantizeLinear" and node in read])


def depths_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between a join and what moves its channels into space, or back."""
    found = [node for node in graph if node.op_type in ("DepthToSpace", "SpaceToDepth") and is_from(node.inputs[0], {"Concat"})]
    return shield(graph, [(node, 0) for node in found])


def _adds_nothing(node: ir.Node) -> bool:
    """Whether `node` adds zeros, or multiplies with ones, of which a runtime makes an expansion."""
    nothing = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(node.op_type)
    known = [numbers for numbers in map(numbers_of, node.inputs) if numbers is not None]
    return nothing is not None and any(numbers.size > 1 and (numbers == nothing).all() for numbers in known)


def joins_requantized(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between two quantizers of a join, where a value is joined with itself."""
    if not any(node.op_type == "Concat" and _may_repeat(node) for node in graph):
        return 0
    return shield(graph, [(node, 0) for node in graph if node.op_type == "QuantizeLinear" and _quantizes_again(node)])


def joins_binarized_apart(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand between a join and what reads its signs."""
    between = POINTWISE | {"BatchNormalization"}
    found = [node for node in graph if node.op_type == BINARY_CONVOLUTION and is_from(node.inputs[0], {"Concat"}, between)]
    return shield(graph, [(node, 0) for node in found])


def _may_repeat(join: ir.Node) -> bool:
    """Whether two of the values that are joined are computed from one alone: slices of it may be alike."""
    return max(Counter(map(_computed_from, join.inputs)).values()) > 1


def _computed_from(value: ir.Value | None) -> ir.Value | None:
    while value is not None and (node := value.producer()) is not None and node.op_type in MOVES | POINTWISE:
        variables = [source for source in node.inputs if source is not None and numbers_of(source) is None]
        if len(variables) != 1:
            break
        value = variables[0]
    return value


def _quantizes_again(quantize: ir.Node) -> bool:
    """Whether `quantize` reads what was quantized, and before that joined, maybe moved and computed with between."""
    before = dequantize_of(quantize.inputs[0])
    return before is not None and is_from(before.inputs[0], {"Concat"}, MOVES | POINTWISE | {"QuantizeLinear"})
