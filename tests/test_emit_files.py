"""The file holds what the model holds, and its summary says what that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from emission import captured
from torch import Tensor, nn

from fxcompress.emit import files
from fxcompress.emit.files import write_onnx
from fxcompress.emit.inspect import inspect_onnx
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import InputError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.head.weight[0] = 0
        self.register_buffer("integers", torch.tensor([[1, -7], [0, 3]], dtype=torch.int8))
        self.register_buffer("scale", torch.rand(2) + 0.1)
        self.register_buffer("zero_point", torch.zeros(2, dtype=torch.int8))
        self.register_buffer("flag", torch.tensor([True, False]))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.fxcompress.dequantize(self.integers, self.scale, self.zero_point, 0, "int4")
        return torch.where(self.flag, self.head(self.conv(x).mean((2, 3))) @ weight, 0.0)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return to_onnx_model(captured(Small(), torch.randn(2, 3, 5, 5)), metadata={"made_by": "a test"})


def test_the_file_holds_the_model(model: ir.Model, tmp_path: Path) -> None:
    path = write_onnx(model, tmp_path / "model.json")  # binary, whatever the name says
    written, wanted = onnx.load(path, format="protobuf"), ir.to_proto(model)
    for proto in (written, wanted):  # which come behind one another in any order
        proto.graph.initializer.sort(key=lambda tensor: tensor.name)
    assert written == wanted
    onnx.checker.check_model(path, full_check=True)
    assert os.listdir(tmp_path) == ["model.json"]


def test_large_weights_go_beside_the_file(model: ir.Model, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 5, 5), dtype=np.float32)
    whole = onnxruntime.InferenceSession(write_onnx(model, tmp_path / "whole.onnx")).run(None, {"x": x})
    for own in ("big.onnx.data", "big.onnx.1.data"):
        (tmp_path / own).write_text("the user's")
    for _ in range(2):
        path = write_onnx(model, tmp_path / "big.onnx", largest_file=100)  # written again over itself
        (data,) = (p.name for p in tmp_path.glob("big.onnx.*.data") if len(p.name) == len("big.onnx.0123456789abcdef.data"))
        assert sorted(p.name for p in tmp_path.glob("big*")) == sorted(["big.onnx", "big.onnx.1.data", "big.onnx.data", data])
        onnx.checker.check_model(path, full_check=True)
        np.testing.assert_array_equal(onnxruntime.InferenceSession(path).run(None, {"x": x}), whole)
        assert inspect_onnx(path).bytes_by_type == inspect_onnx(tmp_path / "whole.onnx").bytes_by_type


def test_weights_of_another_model_are_never_read(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(model, tmp_path / "big.onnx", largest_file=100)
    before, whole = {p.name for p in tmp_path.iterdir()}, path.read_bytes()
    torch.manual_seed(1)
    other = to_onnx_model(captured(Small(), torch.randn(2, 3, 5, 5)))
    replace = os.replace

    def killed(part: Path, place: Path) -> None:
        if place == path:
            raise OSError(5, "killed between the renames")
        replace(part, place)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="killed between the renames"):
        patch.setattr(os, "replace", killed)
        write_onnx(other, path, largest_file=100)
    assert path.read_bytes() == whole and before < {p.name for p in tmp_path.iterdir()}
    onnxruntime.InferenceSession(path)
    write_onnx(other, path, largest_file=100)
    assert not before & {p.name for p in tmp_path.iterdir()} - {"big.onnx"} and len(list(tmp_path.iterdir())) == 2
    write_onnx(other, path)
    assert os.listdir(tmp_path) == ["big.onnx"]
    with pytest.raises(InputError, match="needs a file beside it"):
        write_onnx(other, os.devnull, largest_file=100)
    write_onnx(other, os.devnull)


@pytest.mark.parametrize("limit", [files.LARGEST_FILE, 100])
def test_an_interrupted_write_leaves_the_old_file(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(model, path, largest_file=limit)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def interrupted(model: ir.Model, part: Path, **_: Any) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(ir, "save", interrupted)  # beside a file of weights
    monkeypatch.setattr(files, "write_protobuf", interrupted)  # with the weights inside
    with pytest.raises(KeyboardInterrupt):
        write_onnx(model, path, largest_file=limit)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_inspection(model: ir.Model, tmp_path: Path) -> None:
    summary = inspect_onnx(write_onnx(model, tmp_path / "model.onnx"))
    assert (summary.quantizes, summary.dequantizes) == (0, 1)
    assert summary.operators["Conv"] == 1 and summary.opset == 21
    assert summary.integer_weight_share == pytest.approx(4 / (4 + 8 + 4 * 27))
    assert summary.integer_layer_share == 0
    assert summary.zero_share == pytest.approx((4 + 1) / 120)  # the head's first row and an integer
    assert (
        summary.bytes_by_type["float"] >= 4 * (108 + 4 + 8 + 2) and summary.bytes_by_type["int4"] == 2
    )  # and no zero point, which is 0
    text = str(summary)
    assert "x float[batch, 3, 5, 5]" in text and "1 DequantizeLinear" in text and "made_by = a test" in text


def test_a_layer_behind_a_pool_still_reads_integers(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.pool = pool
            self.register_buffer("integers", torch.randint(-9, 9, (4, 3, 1, 1), dtype=torch.int8))
            self.register_buffer("scale", torch.tensor(0.1))
            self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            grid = (self.scale, self.zero_point, None, "int8")
            x = torch.ops.fxcompress.dequantize(torch.ops.fxcompress.quantize(x, *grid), *grid)
            return F.conv2d(self.pool(x), torch.ops.fxcompress.dequantize(self.integers, *grid))

    pools = [
        (lambda x: F.max_pool2d(x, 2).transpose(2, 3), 1),
        (lambda x: F.pad(x, (1, 1, 0, 2)), 1),
        (lambda x: F.avg_pool2d(x, 2), 0),
    ]
    for pool, share in pools:
        emitted = to_onnx_model(captured(Pooled(pool), torch.randn(2, 3, 4, 4)))
        assert inspect_onnx(write_onnx(emitted, tmp_path / "model.onnx")).integer_layer_share == share


def test_inspecting_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        inspect_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model at all")
    with pytest.raises(InputError, match="text.onnx"):
        inspect_onnx(tmp_path / "text.onnx")
