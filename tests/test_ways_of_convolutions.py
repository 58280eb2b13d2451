"""Which geometries of integer convolutions are written another way, at both sides of each limit, to compute the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from fxcompress.emit import convolutions

GROUPS, VOLUMES, ROWS = "wide_groups_in_float", "shallow_volumes_in_float", "long_rows_longer"
STRIDES, COLUMNS, PADDED, CROPS = "strides_apart", "single_columns", "bytes_padded", "wide_crops_in_float"
FLOATS = "float_weights_apart"

# Sizes of the input, filters, channels of each of them, the kernel and its options; then what is written another way.
GEOMETRIES = [
    ((9, 9), (4, 4, 3, 3), {"strides": [2, 2], "pads": [1] * 4}, set()),
    # More than 16 filters in each of several groups of an odd number of channels, whose kernel has columns.
    ((8, 8), (34, 3, 2, 2), {"group": 2}, {GROUPS}),
    ((8, 8), (34, 5, 1, 2), {"group": 2}, {GROUPS}),
    ((8, 8), (34, 4, 2, 2), {"group": 2}, set()),
    ((8, 8), (34, 3, 2, 1), {"group": 2}, set()),
    ((8, 8), (32, 3, 2, 2), {"group": 2}, set()),
    ((8, 8), (34, 3, 2, 2), {}, set()),
    # Deeper than the volume, of an odd number of channels, whose kernel has columns.
    ((1, 4, 7), (2, 3, 2, 3, 3), {"pads": [1, 0, 0] * 2}, {VOLUMES}),
    ((2, 4, 7), (2, 3, 2, 3, 3), {"pads": [0, 0, 0] * 2}, set()),
    ((2, 4, 7), (2, 3, 2, 3, 3), {"pads": [1, 0, 0] * 2, "dilations": [2, 1, 1]}, {VOLUMES}),
    ((1, 4, 7), (2, 5, 2, 3, 2), {"pads": [1, 0, 0] * 2}, {VOLUMES}),
    ((5, 2, 7), (2, 3, 2, 3, 3), {"pads": [0, 1, 0] * 2}, set()),
    ((1, 4, 7), (2, 4, 2, 3, 3), {"pads": [1, 0, 0] * 2}, set()),
    ((1, 4, 7), (2, 3, 2, 3, 1), {"pads": [1, 0, 0] * 2}, set()),
    ((1, 7), (2, 3, 2, 3), {"pads": [1, 0] * 2}, set()),
    # A row over fewer than 32 channels, a multiple of 4, that is several registers of 64 bytes and nothing more.
    ((3, 40), (2, 4, 1, 32), {}, {ROWS}),
    ((3, 40), (2, 8, 2, 16), {"pads": [1, 2, 0, 3], "strides": [1, 3]}, {ROWS}),
    ((3, 40), (4, 8, 2, 16), {"group": 2}, {ROWS}),
    ((3, 40), (2, 4, 1, 16), {}, set()),
    ((3, 40), (2, 4, 1, 33), {}, set()),
    ((3, 40), (2, 2, 1, 32), {}, set()),
    ((3, 40), (2, 28, 1, 16), {}, {ROWS}),
    ((3, 40), (2, 32, 1, 4), {}, set()),
    ((3, 70), (2, 8, 1, 16), {"dilations": [1, 2]}, set()),
    ((70, 3), (2, 8, 16, 1), {}, set()),
    # One place, padded, of which strides are taken.
    ((7, 7), (2, 4, 1, 1), {"strides": [2, 1], "pads": [1, 0, 0, 0]}, {STRIDES, PADDED}),
    ((7, 7), (2, 4, 1, 1), {"strides": [1, 2], "pads": [0, 0, 0, 1]}, {STRIDES}),
    ((7, 7), (2, 4, 1, 1), {"strides": [2, 2]}, set()),
    ((7, 7), (2, 4, 1, 1), {"pads": [0, 0, 1, 0]}, {PADDED}),
    ((7, 7), (2, 4, 2, 1), {"strides": [2, 2], "pads": [0, 1, 0, 0]}, {PADDED}),
    # Several columns that stride to one.
    ((9, 3), (2, 4, 3, 3), {"strides": [2, 2], "pads": [1, 0, 1, 0]}, {COLUMNS}),
    ((9, 4), (2, 4, 3, 2), {"strides": [1, 3]}, {COLUMNS}),
    ((9, 2), (2, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {COLUMNS}),
    ((9, 3), (2, 4, 3, 2), {"strides": [1, 3]}, {COLUMNS}),
    ((9, 1), (2, 4, 3, 2), {"strides": [1, 3], "pads": [0, 2, 0, 0]}, {PADDED}),
    ((9, 5), (2, 4, 3, 2), {"strides": [1, 3]}, set()),
    ((9, 3), (2, 4, 3, 3), {"strides": [2, 1]}, set()),
    ((9, 1), (2, 4, 3, 1), {"strides": [2, 2]}, set()),
    ((9,), (2, 4, 8), {"strides": [2]}, set()),
    # Outputs of padding alone.
    ((9, 5), (2, 4, 3, 2), {"pads": [0, 2, 0, 0]}, {PADDED}),
    ((9, 5), (2, 4, 3, 2), {"pads": [3, 0, 0, 0]}, {PADDED}),
    ((9, 5), (2, 4, 3, 2), {"pads": [2, 1, 2, 1]}, set()),
    ((9, 5), (2, 4, 3, 2), {"pads": [0, 2, 0, 0], "dilations": [1, 3]}, set()),
    ((1, 5), (2, 4, 2, 1), {"pads": [2, 0, 2, 0], "dilations": [3, 1]}, {PADDED}),
]
TRANSPOSED = [
    ((5, 4), (4, 3, 3, 1), {"pads": [0, 1, 0, 0]}, {CROPS}),
    ((5, 4), (4, 3, 1, 3), {"pads": [0, 0, 1, 0]}, {CROPS}),
    ((5, 4), (4, 3, 3, 2), {"pads": [2, 1, 2, 1]}, set()),
    ((7, 4), (4, 3, 2, 2), {"pads": [2, 0, 2, 0], "dilations": [2, 1]}, set()),
    ((9, 4), (4, 3, 2, 2), {"pads": [3, 0, 1, 0], "dilations": [2, 1]}, {CROPS}),
]
CASES = [("Conv", *case) for case in GEOMETRIES] + [("ConvTranspose", *case) for case in TRANSPOSED]
GRIDS = [{"bias": True}, {"zero_point": False}, {"weight_zero_points": "one"}, {"weight_zero_points": "each"}, {"cast": True}]
WAYS = [STRIDES, COLUMNS, PADDED, GROUPS, VOLUMES, ROWS, CROPS, FLOATS]


@pytest.mark.parametrize(("kind", "sizes", "weight", "options", "ways"), CASES)
def test_a_geometry_is_written_another_way_on_one_side_of_each_limit(kind, sizes, weight, options, ways):
    channels = weight[1] * options.get("group", 1) if kind == "Conv" else weight[0]
    written = integer_convolution(kind, (2, channels, *sizes), weight, options)
    assert met_by(written, (2, channels, *sizes)) == ways


@pytest.mark.parametrize("how", GRIDS, ids=str)
@pytest.mark.parametrize(("kind", "sizes", "weight", "options", "ways"), [case for case in CASES if case[-1]])
def test_so_it_is_with_a_bias_and_on_other_grids(kind, sizes, weight, options, ways, how):
    channels = weight[1] * options.get("group", 1) if kind == "Conv" else weight[0]
    written = integer_convolution(kind, (2, channels, *sizes), weight, options, **how)
    assert met_by(written, (2, channels, *sizes)) == ways


@pytest.mark.parametrize(("kind", "sizes", "weight", "options", "ways"), CASES)
def test_float_weights_of_any_geometry_stay_apart_and_meet_nothing_else(kind, sizes, weight, options, ways):
    channels = weight[1] * options.get("group", 1) if kind == "Conv" else weight[0]
    written = integer_convolution(kind, (2, channels, *sizes), weight, options, float_weight=True)
    assert met_by(written, (2, channels, *sizes)) - {STRIDES} == {FLOATS}


@pytest.mark.parametrize("sizes", [(2, 4, "height", "width"), (2, 4, 9, "width"), (2, 4, "height", 5), None], ids=str)
@pytest.mark.parametrize(("pads", "ways"), [([0, 2, 0, 0], {PADDED}), ([3, 0, 0, 0], {PADDED}), ([2, 1, 2, 0], set())])
def test_free_sizes_are_padded_as_known_ones_are(sizes, pads, ways):
    written = integer_convolution("Conv", sizes, (3, 4, 3, 2), {"pads": pads, "strides": [1, 3]}, rank=4)
    assert met_by(written, (2, 4, 9, 5)) == ways


@pytest.mark.parametrize("behind", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(3, 1), (1, 2), (4, 3)])
def test_a_free_size_is_padded_where_one_that_it_may_have_is(stride, dilation, behind):
    options = {"strides": [1, stride], "dilations": [1, dilation], "pads": [0, behind - 1, 0, behind]}
    smallest = max(1, dilation + 1 - (2 * behind - 1))
    known = [
        met_by(integer_convolution("Conv", (2, 4, 9, n), (3, 4, 3, 2), options), (2, 4, 9, n)) for n in range(smallest, 16)
    ]
    free = integer_convolution("Conv", (2, 4, 9, "width"), (3, 4, 3, 2), options)
    assert met_by(free, (2, 4, 9, 7)) & {PADDED} == set().union(*known) & {PADDED}


@pytest.mark.parametrize("sizes", [(1, 3, 1, "height", 7), (1, 3, "depth", 4, 7)], ids=str)
def test_the_depth_must_be_known_and_it_alone(sizes):
    written = integer_convolution("Conv", sizes, (2, 3, 2, 3, 3), {"pads": [1, 0, 0] * 2})
    assert met_by(written, (1, 3, 1, 4, 7)) == ({VOLUMES} if sizes[2] == 1 else set())


def met_by(serialized, sizes):
    """The ways that the model is written in, each of which leaves nothing to do and computes what it did."""
    x = np.random.default_rng(0).uniform(-1, 1, sizes).astype(np.float32)
    expected, met = run(serialized, x), set()
    for way in WAYS:
        model = ir.from_proto(serialized)
        if not getattr(convolutions, way)(model.graph):
            continue
        met.add(way)
        written = ir.to_proto(model)
        np.testing.assert_allclose(run(written, x), expected, rtol=1e-5, atol=1e-5)
        shape_inference.infer_shapes(written, check_type=True, strict_mode=True)
        assert not getattr(convolutions, way)(model.graph)
        if way in (GROUPS, VOLUMES, CROPS, FLOATS):
            assert read_by_layer(model).producer().op_type == "Max"
        if way is PADDED:
            assert (read_by_layer(model).shape is None) is (read_by_layer(ir.from_proto(serialized)).shape is None)
    return met


def read_by_layer(model):
    (layer,) = (node for node in model.graph if node.op_type in ("Conv", "ConvTranspose"))
    return layer.inputs[0]


def integer_convolution(kind, sizes, weight, options, rank=None, **how):
    """`x`, quantized to bytes, through a convolution of bytes of these sizes, in float32."""
    zero_point, weight_zero_points = how.get("zero_point", True), how.get("weight_zero_points")
    bias, cast, float_weight = (how.get(name, False) for name in ("bias", "cast", "float_weight"))
    numbers, axis = np.random.default_rng(1), 0 if kind == "Conv" else 1
    held = {"scale": np.float32(0.01), "weight_scale": np.float32(0.02)}
    held["integers"] = numbers.integers(-127, 128, weight, np.int8)
    grid, of_weight, along = ["scale"], ["weight_scale"], {}
    if zero_point:
        grid.append("zero_point")
        held["zero_point"] = np.uint8(100)
    if weight_zero_points:
        of_weight.append("weight_zero_point")
        held["weight_zero_point"] = np.int8(7)
    if weight_zero_points == "each":
        held["weight_scale"] = np.linspace(0.01, 0.02, weight[axis], dtype=np.float32)
        held["weight_zero_point"] = np.arange(weight[axis], dtype=np.int8)
        along = {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *grid], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *grid], ["read"]),
        helper.make_node("DequantizeLinear", ["integers", *of_weight], ["weight"], **along),
        helper.make_node(kind, ["read", "weight", *(["bias"] if bias else [])], ["y"], **options),
    ]
    if cast:
        held["stored"] = held.pop("integers").astype(np.int32)
        nodes.insert(0, helper.make_node("Cast", ["stored"], ["integers"], to=TensorProto.INT8))
    if bias:
        held["bias"] = np.linspace(-1, 1, weight[0] if kind == "Conv" else weight[1], dtype=np.float32)
    of, rank = TensorProto.FLOAT, rank or len(sizes)
    values = [helper.make_tensor_value_info("weight", of, weight)]
    if sizes is not None:
        values.append(helper.make_tensor_value_info("read", of, sizes))
    if float_weight:
        held["weight"] = held["integers"].astype(np.float32)
        nodes, values = [node for node in nodes if "weight" not in node.output], values[1:]
    graph = helper.make_graph(
        nodes,
        "geometry",
        [helper.make_tensor_value_info("x", of, sizes or [None] * rank)],
        [helper.make_tensor_value_info("y", of, [None] * rank)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
        value_info=values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    return model


def run(model, x):
    """In onnxruntime as it is written, without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
