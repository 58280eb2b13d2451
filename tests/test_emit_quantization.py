"""Quantize and dequantize: the file rounds and saturates to the same bits as torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from emission import captured, checked, in_onnxruntime, in_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxcompress
from fxcompress import passes
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import EmitError, VerificationError
from fxcompress.quantizers.ops import INTEGER_RANGES
from fxcompress.quantizers.quantizer import Quantizer

quantize, dequantize = torch.ops.fxcompress.quantize.default, torch.ops.fxcompress.dequantize.default


class Grid(nn.Module):
    """Quantize an activation and dequantize it again."""

    def __init__(self, scale: Tensor, zero_point: Tensor, axis: int | None, dtype: str, block_size: int = 0) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.settings = (axis, dtype, block_size)

    def forward(self, x: Tensor) -> Tensor:
        q = quantize(x, self.scale, self.zero_point, *self.settings)
        return dequantize(q, self.scale, self.zero_point, *self.settings)


class Layer(nn.Module):
    """A linear layer or convolution behind an integer weight."""

    def __init__(self, weight: Tensor, dtype: str, scale: Tensor, axis: int | None = 0, block_size: int = 0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int32))
        self.settings = (axis, dtype, block_size)

    def forward(self, x: Tensor) -> Tensor:
        weight = dequantize(self.weight, self.scale, self.zero_point, *self.settings)
        return nn.functional.linear(x, weight) if weight.dim() == 2 else nn.functional.conv2d(x, weight)


def emitted(model: nn.Module, x: Tensor) -> tuple[ir.Model, bytes]:
    found = to_onnx_model(captured(model, x))
    return found, checked(found)


def integers(shape: tuple[int, ...], dtype: str) -> Tensor:
    low, high = INTEGER_RANGES[dtype]
    return torch.randint(low, high + 1, shape, dtype=torch.int8 if low else torch.uint8)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(["int8", "uint8", "int4", "uint4"]),
    channels=st.booleans(),
    scales=st.lists(st.floats(1 / 64, 4, width=32), min_size=3, max_size=3),
    points=st.lists(st.integers(0, 15), min_size=3, max_size=3),
    steps=st.lists(st.integers(-700, 700), min_size=12, max_size=12),
)
def test_activations_land_on_the_same_integers(
    dtype: str, channels: bool, scales: list[float], points: list[int], steps: list[int]
) -> None:
    """Half steps are ties, rounded to even; far values saturate."""
    low, high = INTEGER_RANGES[dtype]
    scale, zero_point = torch.tensor(scales), torch.tensor(points, dtype=torch.int32).clamp(low, high)
    if not channels:
        scale, zero_point = scale[0], zero_point[0]
    model = Grid(scale, zero_point, 1 if channels else None, dtype)
    x = torch.tensor(steps).view(4, 3) * (scale / 2)
    _, serialized = emitted(model, x)
    np.testing.assert_array_equal(in_onnxruntime(serialized, [x])[0], model(x).numpy())


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_openvino_agrees(dtype: str) -> None:
    model = Grid(torch.tensor(0.05), torch.tensor(3, dtype=torch.int32), None, dtype)
    x = torch.randn(2, 3, 8, 8) * 4
    _, serialized = emitted(model, x)
    found = in_openvino(serialized, [x])[0]
    off = np.abs(found - model(x).numpy())
    assert off.max() <= 0.0501 and (off > 1e-5).mean() < 0.01  # a tie may fall to the other side


def test_ties_and_ends() -> None:
    model = Grid(torch.tensor(1.0), torch.tensor(0, dtype=torch.int8), None, "int8")
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 500.0, -128.5, -500.0]])
    assert model(x).tolist() == [[0, 2, 2, 0, -2, 127, 127, -128, -128]]
    _, serialized = emitted(model, torch.cat([x, x]))
    assert in_onnxruntime(serialized, [x])[0].tolist() == model(x).tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2, 2)])
def test_integer_weights(dtype: str, shape: tuple[int, ...]) -> None:
    model = Layer(integers(shape, dtype), dtype, torch.rand(shape[0]) + 0.1)
    x = torch.randn(2, 4, 5) if len(shape) == 2 else torch.randn(2, 3, 6, 6)
    found, serialized = emitted(model, x)
    np.testing.assert_allclose(in_onnxruntime(serialized, [x])[0], model(x).numpy(), rtol=1e-4, atol=1e-4)
    stored = [v for v in found.graph.initializers.values() if v.const_value is not None and v.const_value.size > 8]
    assert [v.dtype.name for v in stored if v.dtype] == [dtype.upper()]
    assert stored[0].const_value is not None
    assert stored[0].const_value.nbytes == (model.weight.numel() + 1) // 2 if "4" in dtype else model.weight.numel()


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5)])
def test_nothing_stands_between_integer_weight_and_product(shape: tuple[int, ...]) -> None:
    found, _ = emitted(Layer(integers((4, 5), "int8"), "int8", torch.rand(4)), torch.randn(*shape))
    product = next(node for node in found.graph if node.op_type in ("Gemm", "MatMul"))
    weight = product.inputs[1]
    assert weight is not None
    producer = weight.producer()
    assert producer is not None and producer.op_type == "DequantizeLinear"
    assert producer.inputs[0] is not None and producer.inputs[0].is_initializer()
    assert sorted(node.op_type for node in found.graph) == sorted(["DequantizeLinear", product.op_type])


@pytest.mark.parametrize("shape", [(2, 64), (2, 3, 64)])
def test_openvino_multiplies_integers(shape: tuple[int, ...]) -> None:
    openvino = pytest.importorskip("openvino")

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = Grid(torch.tensor(0.05), torch.tensor(128, dtype=torch.uint8), None, "uint8")
            self.layer = Layer(integers((32, 64), "int8"), "int8", torch.rand(32))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.grid(x))

    _, serialized = emitted(Both(), torch.randn(*shape))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(serialized), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = {op.get_rt_info()["layerType"].astype(str): op for op in compiled.get_runtime_model().get_ops()}
    assert kinds["FullyConnected"].get_rt_info()["runtimePrecision"].astype(str) in ("u8", "i8")


class Bias(nn.Module):
    def __init__(self, point: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tensor([5, -70000, 123], dtype=torch.int32))
        self.register_buffer("scale", torch.tensor([0.1, 0.01, 1.0]))
        self.register_buffer("point", torch.full((3,), point, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return x + dequantize(self.bias, self.scale, self.point, 0, "int32")


def test_int32_bias() -> None:
    x = torch.randn(2, 3)
    found, serialized = emitted(Bias(0), x)
    np.testing.assert_allclose(in_onnxruntime(serialized, [x])[0], Bias(0)(x).numpy(), rtol=1e-6)
    assert len(next(iter(found.graph)).inputs) == 2  # the runtimes take int32 without a zero point only
    with pytest.raises(EmitError, match="zero point of 0"):
        emitted(Bias(1), x)


def test_quantizing_to_int32_is_refused() -> None:
    model: Any = Grid(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), None, "int32")
    with pytest.raises(EmitError, match="no int32 result"):
        emitted(model, torch.randn(2, 3))


def test_integers_that_are_off_by_one_step_are_not_lowered(monkeypatch):
    """A single one of 8,192, of 8 bits: above 80 dB, so that nothing but equality sees it."""
    torch.manual_seed(0)
    x, exact = torch.randn(4, 256), Quantizer.integers
    compiled = fxcompress.compile(nn.Linear(256, 32), [passes.Quantize(), passes.Calibrate()], data=[x])
    compiled.lower()

    def off_by_one(self: Quantizer, *given: Any) -> Tensor:
        integers = exact(self, *given)
        integers.view(-1)[17] -= 1
        return integers

    monkeypatch.setattr(Quantizer, "integers", off_by_one)
    with pytest.raises(VerificationError, match="LowerQuantizers promised the same bits, but the outputs agree to"):
        compiled.lower()
