"""Weights of 4 bits and in blocks: the file computes what the simulation does, in both runtimes, and stays small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from emission import captured, checked, in_onnxruntime, in_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxcompress.emit.inspect import inspect_onnx
from fxcompress.emit.onnx import to_onnx_model, write_onnx
from fxcompress.quantizers.ops import INTEGER_RANGES, STORAGE

dequantize = torch.ops.fxcompress.dequantize.default
Use = Callable[[Tensor, Tensor], Tensor]


class Weight(nn.Module):
    """An integer weight, dequantized for `use`; a zero point each, or 0."""

    def __init__(self, shape: tuple[int, ...], use: Use, dtype: str, axis: int, block_size: int, zero_points: bool = False):
        super().__init__()
        grid = (
            [-(-shape[axis] // block_size) if i == axis else size for i, size in enumerate(shape)]
            if block_size
            else [shape[axis]]
        )
        low, high = INTEGER_RANGES[dtype]
        points = torch.randint(low, high + 1, grid) if zero_points else torch.zeros(grid)
        self.register_buffer("weight", torch.randint(low, high + 1, shape).to(STORAGE[dtype]))
        self.register_buffer("scale", torch.rand(grid) * 0.1 + 0.01)
        self.register_buffer("zero_point", points.to(STORAGE[dtype]))
        self.settings = (axis, dtype, block_size)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, dequantize(self.weight, self.scale, self.zero_point, *self.settings))


def emitted(model: Weight, x: Tensor) -> tuple[Counter[str], bytes]:
    """Operators of the file and the file, once both runtimes agree with the simulation."""
    found = to_onnx_model(captured(model, x))
    serialized = checked(found)
    for runtime in (in_onnxruntime, in_openvino):
        np.testing.assert_allclose(
            runtime(serialized, [x])[0], model(x).numpy(), rtol=1e-4, atol=1e-5, err_msg=runtime.__name__
        )
    return Counter(node.op_type for node in found.graph), serialized


LAYERS: dict[str, tuple[Use, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (F.linear, (6, 8), (2, 8)),
    "linear, odd": (F.linear, (5, 7), (2, 7)),
    "linear of sequences": (F.linear, (5, 7), (2, 3, 7)),
    "product": (lambda x, weight: x @ weight.t(), (5, 7), (2, 3, 7)),
    "convolution": (F.conv2d, (5, 7, 3, 3), (2, 7, 5, 5)),
    "groups": (lambda x, weight: F.conv2d(x, weight, groups=2), (4, 6, 3, 3), (2, 12, 5, 5)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("dtype", "zero_points"), [("int4", False), ("uint4", True)])
@pytest.mark.parametrize("block_size", [0, 1, 3, 32], ids=["channels", "ones", "short at the end", "larger than the axis"])
def test_layers(layer: str, dtype: str, zero_points: bool, block_size: int) -> None:
    use, shape, data = LAYERS[layer]
    model = Weight(shape, use, dtype, 1 if block_size else 0, block_size, zero_points)
    operators, _ = emitted(model, torch.randn(data))
    assert operators["DequantizeLinear"] == 1 and operators["Transpose"] == 0


@pytest.mark.parametrize(("dtype", "zero_points"), [("int4", False), ("uint4", True), ("int8", False), ("uint8", True)])
@pytest.mark.parametrize(("axis", "block_size"), [(0, 0), (1, 0), (1, 3), (1, 32), (0, 2)])
def test_tables(dtype: str, zero_points: bool, axis: int, block_size: int) -> None:
    model = Weight((9, 7), lambda x, table: F.embedding(x, table), dtype, axis, block_size, zero_points)
    operators, _ = emitted(model, torch.randint(0, 9, (2, 3)))
    whole = axis == 0 and block_size > 0  # blocks of rows: the one kind that is dequantized before the look-up
    assert operators["DequantizeLinear"] == whole


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), dtype=st.sampled_from(["int4", "uint4"]))
def test_nibbles_are_packed_as_onnx_reads_them(rows: int, columns: int, dtype: str) -> None:
    model = Weight((rows, columns, 1, 1), F.conv2d, dtype, 0, 0)
    proto = onnx.load_from_string(checked(to_onnx_model(captured(model, torch.randn(2, columns, 2, 2)))))
    (stored,) = [t for t in proto.graph.initializer if t.name == "weight"]
    assert len(stored.raw_data) == (rows * columns + 1) // 2
    assert onnx.numpy_helper.to_array(stored).astype(int).tolist() == model.weight.tolist()


@pytest.mark.parametrize(("use", "rows"), [(F.linear, 64), (lambda x, table: F.embedding(x, table), 64)])
def test_the_file_holds_four_bits_a_weight(use: Use, rows: int) -> None:
    model = Weight((rows, 256), use, "int4", 1, 128)
    embedding = use is not F.linear
    proto = onnx.load_from_string(emitted(model, torch.randint(0, 64, (2, 3)) if embedding else torch.randn(2, 256))[1])
    assert sum(len(t.raw_data) for t in proto.graph.initializer if "weight" in t.name) == rows * 256 // 2


@pytest.mark.parametrize(("dtype", "kind"), [("int4", "i4"), ("uint4", "u4")])
@pytest.mark.parametrize("block_size", [0, 64])
def test_openvino_multiplies_with_four_bits(dtype: str, kind: str, block_size: int) -> None:
    openvino = pytest.importorskip("openvino")
    model = Weight((256, 256), F.linear, dtype, 1 if block_size else 0, block_size, zero_points=dtype == "uint4")
    core = openvino.Core()
    serialized = checked(to_onnx_model(captured(model, torch.randn(2, 256))))
    compiled = core.compile_model(core.read_model(serialized), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = {op.get_rt_info()["layerType"].astype(str): op for op in compiled.get_runtime_model().get_ops()}
    assert kinds["FullyConnected"].input(1).get_element_type().get_type_name() == kind


def test_a_weight_with_a_short_block_counts_as_integers(tmp_path: Path) -> None:
    model = to_onnx_model(captured(Weight((5, 7), F.linear, "int4", 1, 3), torch.randn(2, 7)))
    assert inspect_onnx(write_onnx(model, tmp_path / "model.onnx")).integer_weight_share == 1
