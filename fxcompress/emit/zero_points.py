"""Zero points that a runtime need not subtract while it computes: they are part of a bias, or of the type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import MOVES, POINTWISE, constant, numbers_of
from fxcompress.ir.reach import reached

_PASSED = MOVES | POINTWISE | {"AveragePool", "BatchNormalization", "DequantizeLinear", "QuantizeLinear", "Resize"}  # by bytes
_IN_BYTES = {"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax", "Where"}
_MIDDLE = 128  # of unsigned bytes: what is less by it is a signed one


def zero_points_in_biases(graph: ir.Graph) -> int:
    """Have convolutions without padding read integers without a zero point, which the bias makes up for.

    The sum over q w is the sum over (q - z) w and z times the sum of w, which is known. Padding is zeros, z in integers, and
    would be missing at the borders.
    """
    found = [node for node in graph if node.op_type == "Conv" and _has_known_excess(node)]
    for node in found:
        (dequantize, weight), bias = (value.producer() for value in node.inputs[:2]), numbers_of(node.inputs[2])  # type: ignore[union-attr]
        assert dequantize is not None and weight is not None and bias is not None
        less = bias.astype(np.float64) - _excess(dequantize, weight)
        node.replace_input_with(2, constant(graph, less.astype(np.float32), f"{node.name}/bias"))
        node.replace_input_with(0, _without_zero_point(graph, dequantize))
    return len(found)


def _has_known_excess(node: ir.Node) -> bool:
    pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else []
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    read, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
    if read is None or weight is None or any(pads) or numbers_of(bias) is None:
        return False
    if not _is_dequantize(read) or not _is_dequantize(weight):
        return False
    point = _zero_point(read)
    return point.size == 1 and bool(point.any()) and not _zero_point(weight).any() and _integers(weight) is not None


def _is_dequantize(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear"


def _zero_point(dequantize: ir.Node) -> np.ndarray:
    point = numbers_of(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    return np.zeros((), np.int64) if point is None else point.astype(np.int64)


def _integers(dequantize: ir.Node) -> np.ndarray | None:
    """The constant that is dequantized, which may be cast from fewer bits."""
    value = dequantize.inputs[0]
    source = value.producer() if value is not None else None
    held = numbers_of(source.inputs[0] if source is not None and source.op_type == "Cast" else value)
    return None if held is None else held.astype(np.int64)


def _excess(dequantize: ir.Node, weight: ir.Node) -> np.ndarray:
    """What the zero point adds to the outputs of each filter, (filters,)."""
    integers, step = _integers(weight), numbers_of(dequantize.inputs[1])
    scale = numbers_of(weight.inputs[1])
    assert integers is not None and step is not None and scale is not None
    sums = integers.reshape(len(integers), -1).sum(1) * int(_zero_point(dequantize).item())
    return sums * scale.astype(np.float64).reshape(-1) * float(step.item())


def _without_zero_point(graph: ir.Graph, dequantize: ir.Node) -> ir.Value:
    """What `dequantize` puts out, more by its zero point."""
    integers, scale = dequantize.inputs[:2]
    assert integers is not None
    for reader, _ in integers.uses():
        if _is_dequantize(reader) and len(reader.inputs) == 2 and reader.inputs[1] is scale:
            return reader.outputs[0]
    made = ir.Node("", "DequantizeLinear", [integers, scale], name=f"{dequantize.name}/raised")
    graph.insert_after(dequantize, made)
    known = dequantize.outputs[0]
    made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = f"{known.name}/raised", known.type, known.shape
    return made.outputs[0]


def middles_signed(graph: ir.Graph) -> int:
    """Have unsigned bytes whose zero point is their middle be signed ones, which have none: the same numbers."""
    found = [node for node in graph if node.op_type == "QuantizeLinear" and _number_of_type(node, ir.DataType.UINT8) == _MIDDLE]
    for node in found:
        _shift(node, constant(graph, np.zeros((), np.int8), "constant/int8_0"))
    return len(found)


def moved_unsigned(graph: ir.Graph) -> int:
    """Where anything is joined, have signed bytes be unsigned that joins read or put out, or that move to a convolution.

    On the way they may be computed with. The numbers are the same.
    """
    joins = [node for node in graph if node.op_type == "Concat"]
    read = [node.inputs[0].producer() for node in graph if node.op_type == "Conv" and node.inputs[0] is not None]
    moved = [node for node in read if node is not None and not _is_dequantize(node)] if joins else []
    return _made_unsigned(graph, {*_by_bytes(joins + moved, ir.Node.predecessors), *_by_bytes(joins, ir.Node.successors)})


def outputs_unsigned(graph: ir.Graph) -> int:
    """Have what onnxruntime puts out in kernels of bytes be unsigned, where signed bytes have no zero point: the same numbers.

    It takes them for unsigned ones there; where what is read is signed, it then computes in float.
    """
    written = {reader for node in graph if node.op_type in _IN_BYTES for reader, _ in node.outputs[0].uses()}
    return _made_unsigned(graph, written)


def transposed_unsigned(graph: ir.Graph) -> int:
    """Have signed bytes that transposed convolutions read be unsigned: the same numbers."""
    transposed = [node for node in graph if node.op_type == "ConvTranspose"]
    return _made_unsigned(graph, set(_by_bytes(transposed, ir.Node.predecessors)))


def _by_bytes(nodes: list[ir.Node], neighbours: Callable[[ir.Node], Iterable[ir.Node]]) -> Iterator[ir.Node]:
    """`nodes`, and what leads to them or they lead to, through what moves values and computes with them."""
    return reached(nodes, lambda node: (one for one in neighbours(node) if one.op_type in _PASSED))


def _made_unsigned(graph: ir.Graph, met: set[ir.Node]) -> int:
    found = [node for node in graph if node.op_type == "QuantizeLinear" and node in met]
    signed = [(node, number) for node in found if (number := _number_of_type(node, ir.DataType.INT8)) is not None]
    for node, number in signed:
        _shift(node, constant(graph, np.asarray(number + _MIDDLE, np.uint8), f"constant/uint8_{number + _MIDDLE}"))
    return len(signed)


def _number_of_type(quantize: ir.Node, wanted: ir.DataType) -> int | None:
    """The zero point of bytes of a type that nothing but dequantizes with the same reads; None for others."""
    point = quantize.inputs[2] if len(quantize.inputs) > 2 else None
    numbers, integers = numbers_of(point), quantize.outputs[0]
    if point is None or numbers is None or point.dtype != wanted or numbers.size != 1 or integers.is_graph_output():
        return None
    readers = [reader for reader, _ in integers.uses()]
    same = all(_is_dequantize(one) and len(one.inputs) > 2 and (_zero_point(one) == numbers).all() for one in readers)
    return int(numbers.item()) if same else None


def _shift(quantize: ir.Node, point: ir.Value) -> None:
    """Give bytes another zero point, of the type that they have from now on."""
    quantize.replace_input_with(2, point)
    integers = quantize.outputs[0]
    integers.type = ir.TensorType(point.dtype)  # type: ignore[arg-type]
    for reader, _ in integers.uses():
        reader.replace_input_with(2, point)
