"""The file as its user wants it: batch size, names, opset."""

from __future__ import annotations

import onnx
import pytest
import torch
from emission import in_onnxruntime, in_openvino
from torch import nn
from torch.nn import functional as F

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.errors import InputError
from fxcompress.execution.agreement import sqnr


class Pyramid(nn.Module):
    """Reads its own batch size in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, image, scale):
        y = self.a(image).relu()
        y = F.interpolate(self.b(y), size=(9, 9)) + y.new_ones(y.shape[0], 1, 9, 9)
        rows = y.flatten(2).transpose(1, 2).reshape(y.shape[0] * 9, 9, 8)
        return {"rows": self.c(rows).reshape(y.shape[0], -1), "mean": y.mean((2, 3)) * scale}


INPUTS = torch.randn(4, 3, 11, 11), torch.rand(4, 8)


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    return fxcompress.compile(Pyramid(), [passes.Quantize(), passes.Calibrate()], data=[INPUTS])


def shapes(path):
    return {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in onnx.load(path).graph.input}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_fixed_batch_size(compiled, batch_size, tmp_path):
    path = compiled.to_onnx(tmp_path / "model.onnx", batch_size=batch_size, verify="strict")
    assert shapes(path) == {"image": [batch_size, 3, 11, 11], "scale": [batch_size, 8]}
    graph = onnx.load(path).graph
    assert "Shape" not in {node.op_type for node in graph.node}
    assert all(d.HasField("dim_value") for v in graph.value_info for d in v.type.tensor_type.shape.dim)
    given = [x[:batch_size] for x in INPUTS]
    for run in (in_onnxruntime, in_openvino):
        for found, wanted in zip(run(path.read_bytes(), given), compiled(*given).values()):
            assert sqnr(wanted, torch.from_numpy(found)) > 40


def test_the_batch_size_is_free_unless_it_is_fixed(compiled, tmp_path):
    assert shapes(compiled.to_onnx(tmp_path / "model.onnx", verify=False)) == {
        "image": ["batch", 3, 11, 11],
        "scale": ["batch", 8],
    }


def test_names(compiled, tmp_path):
    path = compiled.to_onnx(tmp_path / "model.onnx", input_names=["x", "rows"], output_names=["a", "conv"], verify="strict")
    graph = onnx.load(path).graph
    assert [v.name for v in graph.input] == ["x", "rows"] and [v.name for v in graph.output] == ["a", "conv"]


@pytest.mark.parametrize("opset", [20, 21, 22, 23])
def test_an_opset(compiled, opset, tmp_path):
    path = compiled.to_onnx(tmp_path / "model.onnx", opset=opset, verify="strict")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    found = in_onnxruntime(path.read_bytes(), list(INPUTS))[0]
    assert sqnr(compiled(*INPUTS)["rows"], torch.from_numpy(found)) > 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "from 1 on"),
        ({"batch_size": "2"}, "from 1 on"),
        ({"batch_size": True}, "from 1 on"),
        ({"opset": 19}, "from 20 to"),
        ({"opset": 99}, "from 20 to"),
        ({"opset": "20"}, "from 20 to"),
        ({"input_names": ["x"]}, "has 1 names, the model has 2"),
        ({"output_names": ["x"]}, "has 1 names, the model has 2"),
        ({"output_names": ["x", "x"]}, "'x' names more than one input or output"),
        ({"input_names": ["x", "rows"], "output_names": ["a", "rows"]}, "'rows' names more than one input or output"),
        ({"input_names": ["x", ""]}, "not empty"),
        ({"input_names": ["x", "a\0b"]}, "no null character"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(compiled, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        compiled.to_onnx(tmp_path / "model.onnx", verify=False, **options)
    assert not list(tmp_path.iterdir())


def test_4_bits_need_opset_21(tmp_path):
    four = passes.Quantize(weights=QuantizationSpec(bits=4, signed=True))
    compiled = fxcompress.compile(nn.Linear(8, 4), [four, passes.Calibrate()], data=[torch.randn(4, 8)])
    with pytest.raises(InputError, match="needs opset 21"):
        compiled.to_onnx(tmp_path / "model.onnx", opset=20)
