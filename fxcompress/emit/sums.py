"""Sums of integers that nothing is added to, which a runtime would compute with behind what reads them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from fxcompress.emit.rewiring import (
    MOVES,
    POINTWISE,
    constant,
    constants_of,
    dequantize_of,
    follow,
    is_quantized_activation,
    minus_infinity,
    numbers_of,
    products_of,
)
from fxcompress.ir.reach import reached

_SMALLEST = np.finfo(np.float32).tiny
# What tells zero from the smallest number there is, and at which of its places where not at all of them.
_TELLING = {"ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Mod"}
_TELLING |= {"NonZero", "Not", "Reciprocal", "Sign", "TopK"}
# What is the same of both.
_LEVELLING = {"Cos", "Cosh", "Exp", "HardSigmoid", "QuantizeLinear", "Round", "Sigmoid", "Softmax", "Softplus"}


def bare_sums_guarded(graph: ir.Graph) -> int:
    """Add the smallest normal number to sums of integers; zero would be optimised away.

    OpenVINO moves the scales of such a sum behind what reads it, whatever that does to the channels, or into one of several
    readers, unless something is added in the kernel. Where something would tell that number from zero, a maximum with minus
    infinity, which runs by itself, stands behind the sum instead.
    """
    constants = constants_of(graph)
    found = [node for node in graph if _is_bare_sum(node, constants)]
    found += [node for node in products_of(graph) if not _is_read_once(node.outputs[0])]
    for node in found:
        if _zero_shows(node.outputs[0]):
            follow(graph, node.outputs[0], "Max", minus_infinity(graph))
        elif node.op_type == "MatMul":
            follow(graph, node.outputs[0], "Add", constant(graph, np.full((), _SMALLEST), "constant/float32_smallest"))
        else:
            channels = _channels(node)
            bias = constant(graph, np.full((channels,), _SMALLEST), f"constant/float32_smallest_{channels}")
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
    return len(found)


def _zero_shows(value: ir.Value) -> bool:
    """Whether something behind `value` tells the smallest number from zero."""

    def behind(one: ir.Value) -> Iterator[ir.Value]:
        return (made for reader, _ in one.uses() if not _levels(reader) for made in reader.outputs)

    return any(_tells(reader, place) for one in reached([value], behind) for reader, place in one.uses())


def _tells(node: ir.Node, place: int) -> bool:
    if node.op_type == "Cast":
        return node.attributes.get_int("to", 0) not in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    if node.op_type == "Pow":
        exponent = numbers_of(node.inputs[1])
        return place == 0 and (exponent is None or bool((exponent < 0.5).any()))
    return node.op_type in _TELLING or (node.op_type == "Div" and place == 1)


def _levels(node: ir.Node) -> bool:
    """Whether `node` gives the same of zero and of the smallest number: what it adds, or clips at, is larger."""
    if node.op_type in ("Add", "Clip", "Max", "Sub"):
        constants = [numbers for numbers in map(numbers_of, node.inputs[:2]) if numbers is not None]
        return any(bool((numbers > 0).all() if node.op_type in ("Clip", "Max") else numbers.all()) for numbers in constants)
    return node.op_type in _LEVELLING


def _is_bare_sum(node: ir.Node, constants: set[ir.Value | None]) -> bool:
    """Whether `node` is an integer convolution or linear layer that adds nothing to its sum."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or any(map(_is_float, node.inputs[:2])):
        return False
    if node.op_type != "MatMul":
        return not _is_bias(node.inputs[2] if len(node.inputs) > 2 else None)
    readers = [reader for reader, _ in node.outputs[0].uses()]
    biased = len(readers) == 1 and readers[0].op_type == "Add" and any(map(_is_bias, readers[0].inputs))
    return not biased and not is_quantized_activation(node.inputs[1], constants)


def _is_float(value: ir.Value | None) -> bool:
    return dequantize_of(value) is None


def _is_bias(value: ir.Value | None) -> bool:
    """Whether `value` is a constant that is not zero throughout."""
    numbers = numbers_of(value)
    return numbers is not None and bool(numbers.any())


def _channels(node: ir.Node) -> int:
    """How many channels a layer puts out."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    if node.op_type == "Gemm":
        return int(weight.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1])
    if node.op_type == "Conv":
        return int(weight.shape.numpy()[0])
    return int(weight.shape.numpy()[1]) * node.attributes.get_int("group", 1)


def _is_read_once(value: ir.Value) -> bool:
    """Whether `value`, moved or computed with, comes to a softmax or quantizer, and nothing else: ``y + y`` reads twice.

    What else there is may be several operations to OpenVINO, as a logarithm of a softmax is.
    """
    while len(value.uses()) == 1 and not value.is_graph_output():
        (reader, _), *_ = value.uses()
        if reader.op_type in ("Softmax", "QuantizeLinear"):
            return True
        if reader.op_type not in MOVES | POINTWISE | {"Where"} or len(reader.outputs) > 1:
            return False
        value = reader.outputs[0]
    return False
