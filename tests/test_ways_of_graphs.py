"""Small ONNX graphs, each on one side of what a fault needs: which are written another way, to compute the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from fxcompress.emit.faults import write_around
from fxcompress.targets.faults import Fault

X = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6)).astype(np.float32)
QUANTIZED = [("QuantizeLinear", "x scale zero", "q", {}), ("DequantizeLinear", "q scale zero", "d", {})]


def quantized(name):
    return [("QuantizeLinear", f"{name} scale zero", "held", {}), ("DequantizeLinear", "held scale zero", "read", {})]


def joined(axis, *between):
    return [("Concat", "x x", "j", {"axis": axis}), *between, *quantized("r" if between else "j")]


def flat(axis):
    shape = [("Flatten", "x", "flat", {}), ("Reshape", "flat sizes", "known", {})]
    return [*shape, ("Concat", "known known", "j", {"axis": axis}), *quantized("j")]


RELU = ("Relu", "j", "r", {})
PRODUCT, KERNEL = ("MatMul", "read m", "y", {}), ("Conv", "read k", "y", {})
# The fault, the graph, and how often it is met there.
GRAPHS = [
    (Fault.SHAPES_OF_CONVOLUTIONS, [("Shape", "d", "y", {})], 1),
    (Fault.SHAPES_OF_CONVOLUTIONS, [("Shape", "d", "y", {"start": 1})], 1),
    (Fault.SHAPES_OF_CONVOLUTIONS, [("Shape", "d", "y", {"end": 2})], 1),
    (Fault.SHAPES_OF_CONVOLUTIONS, [("Shape", "d", "y", {"start": -2, "end": -1})], 1),
    (Fault.SHAPES_OF_CONVOLUTIONS, [("Relu", "d", "y", {})], 0),
    (Fault.JOINED_ROWS, [*joined(1), PRODUCT], 1),
    (Fault.JOINED_ROWS, [*joined(0), PRODUCT], 1),
    (Fault.JOINED_ROWS, [*joined(-2), PRODUCT], 1),
    (Fault.JOINED_ROWS, [*joined(1, RELU), PRODUCT], 1),
    (Fault.JOINED_ROWS, [*joined(2), ("MatMul", "read mm", "y", {})], 0),
    (Fault.JOINED_ROWS, [*joined(-1, RELU), ("MatMul", "read mm", "y", {})], 0),
    (Fault.JOINED_ROWS, [*joined(2), KERNEL], 1),
    (Fault.JOINED_ROWS, [*joined(-1), KERNEL], 1),
    (Fault.JOINED_ROWS, [*joined(1), ("Conv", "read kk", "y", {})], 0),
    (Fault.JOINED_ROWS, [*joined(1), ("Relu", "read", "y", {})], 0),
    (Fault.JOINED_ROWS, [("Relu", "x", "j", {}), *quantized("j"), PRODUCT], 0),
    (Fault.JOINED_ROWS, [*flat(1), ("Gemm", "read wide", "y", {})], 0),
    (Fault.JOINED_ROWS, [*flat(0), ("Gemm", "read high", "y", {})], 1),
]
NUMBERS = np.random.default_rng(1)
HELD = {
    "scale": np.float32(0.01),
    "zero": np.uint8(100),
    "m": NUMBERS.uniform(-1, 1, (6, 3)).astype(np.float32),
    "sizes": np.array([2, 24]),
    "wide": NUMBERS.uniform(-1, 1, (48, 3)).astype(np.float32),
    "high": NUMBERS.uniform(-1, 1, (24, 3)).astype(np.float32),
    "mm": NUMBERS.uniform(-1, 1, (12, 3)).astype(np.float32),
    "k": NUMBERS.uniform(-1, 1, (3, 4, 2)).astype(np.float32),
    "kk": NUMBERS.uniform(-1, 1, (3, 8, 2)).astype(np.float32),
}


@pytest.mark.parametrize(("fault", "nodes", "count"), GRAPHS)
def test_a_graph_that_meets_a_fault_is_written_another_way(fault, nodes, count):
    nodes = nodes if any(node[0] == "Concat" or node[1] == "x" for node in nodes) else [*QUANTIZED, *nodes]
    assert met(made(nodes, HELD), fault) == count


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT8"])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("rows", "left"), [(6, False), (5, False), (5, True)])
def test_an_odd_number_of_rows_of_four_bits_is_cast(kind, zero, rows, left):
    """Where they are what a product sums over: the second operand."""
    x = np.ones((3, 3) if left else (2, rows), np.float32)
    points = np.arange(3) if zero else None
    model = of_few_bits(kind, (rows, 3), {"axis": 1}, np.linspace(0.1, 0.3, 3), points, "w x" if left else "x w", x.shape)
    assert met(model, Fault.ODD_ROWS, x) == (kind != "INT8" and rows == 5 and not left)


BLOCKS = {
    "INT4": {
        2: 2,
        3: 3,
        4: 4,
        5: 1,
        6: 6,
        7: 1,
        9: 3,
        10: 10,
        30: 30,
        31: 1,
        32: 32,
        34: 2,
        36: 18,
        48: 24,
        64: 64,
        66: 22,
        96: 96,
    },
    "INT8": {2: 2, 3: 3, 4: 4, 5: 1, 6: 3, 8: 8, 9: 3, 10: 2, 12: 12, 14: 2, 18: 3, 36: 36},
}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind, sizes in BLOCKS.items() for size in sizes])
def test_groups_that_are_added_up_wrongly_are_divided(kind, size, axis, zero):
    shape = (2 * size, 3) if axis == 0 else (3, 2 * size)
    scales = np.linspace(0.1, 0.3, 6).reshape((2, 3) if axis == 0 else (3, 2))
    points = np.arange(6).reshape(scales.shape) if zero else None
    x = np.ones((2, shape[0]), np.float32)
    model = of_few_bits(kind, shape, {"axis": axis, "block_size": size}, scales, points, "x w", x.shape)
    assert met(model, Fault.ODD_GROUPS, x) == (BLOCKS[kind][size] != size)
    written = ir.from_proto(model)
    write_around(written.graph, {Fault.ODD_GROUPS})
    sizes = [node.attributes.get_int("block_size") for node in written.graph if "block_size" in node.attributes]
    assert sizes == [BLOCKS[kind][size]]


def of_few_bits(kind, shape, grid, scales, points, operands, sizes):
    """A product with a matrix of integers, beside something quantized."""
    top = 128 if kind == "INT8" else 8
    low, high = (0, 2 * top) if kind[0] == "U" else (-top, top)
    integers = NUMBERS.integers(low, high, shape)
    held = {**HELD, "integers": (kind, integers), "scales": scales.astype(np.float32)}
    if points is not None:
        held["points"] = (kind, points)
    nodes = [
        ("QuantizeLinear", "x scale zero", "q", {}),
        ("DequantizeLinear", f"integers scales{' points' if points is not None else ''}", "w", grid),
        ("MatMul", operands, "y", {}),
    ]
    return made(nodes, held, sizes)


def made(nodes, held, sizes=X.shape):
    initializers = [
        helper.make_tensor(name, getattr(TensorProto, value[0]), value[1].shape, value[1].flatten().tolist())
        if isinstance(value, tuple)
        else numpy_helper.from_array(np.asarray(value), name)
        for name, value in held.items()
        if any(name in read.split() for _, read, _, _ in nodes)
    ]
    kind, ranks = TensorProto.INT64 if nodes[-1][0] == "Shape" else TensorProto.FLOAT, {"Shape": 1, "Gemm": 2}
    graph = helper.make_graph(
        [helper.make_node(op, read.split(), [result], **attributes) for op, read, result, attributes in nodes],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", kind, [None] * ranks.get(nodes[-1][0], len(sizes)))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model)
    return model


def met(model, fault, x=X):
    """How often the fault is met: what is written then computes the same, and does not meet it again."""
    written = ir.from_proto(model)
    told = write_around(written.graph, {fault})
    assert not told or fault.value in told[0]
    np.testing.assert_allclose(run(ir.to_proto(written), x), run(model, x), rtol=1e-5, atol=1e-5)
    if fault is not Fault.SHAPES_OF_CONVOLUTIONS:  # a size stays one, however it is read
        assert not write_around(written.graph, {fault})
    return int(told[0].split()[0]) if told else 0


def run(model, x):
    """In onnxruntime as it is written, without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
