"""Files of more than 2 GiB, where offsets leave 32 bits and protobuf ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import fxcompress

ROWS, WIDTH = 1_100_000, 512
BYTES = 4 * ROWS * WIDTH
MEMORY, DISK = 4 * BYTES, 3 * BYTES


class Table(nn.Module):
    """Rows of zeros, but for the first and the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Buffer(torch.zeros(ROWS, WIDTH))
        self.table[0], self.table[-1] = 3, torch.arange(WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table[rows]


def free_memory() -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> fxcompress.Compiled:
    assert BYTES > 2**31
    if not Path("/proc/meminfo").exists() or free_memory() < MEMORY:
        pytest.skip(f"needs {MEMORY / 2**30:.0f} GiB of free memory")
    if shutil.disk_usage(tmp_path_factory.getbasetemp()).free < DISK:
        pytest.skip(f"needs {DISK / 2**30:.0f} GiB of free disk")
    return fxcompress.compile(Table(), [], example_inputs=torch.tensor([[0, 1]] * 2))


ASKED = np.array([[ROWS - 1, 0, 1]])
WANTED = np.stack([np.arange(WIDTH), np.full(WIDTH, 3), np.zeros(WIDTH)])[None]


@pytest.mark.nightly
def test_an_onnx_file_with_its_weights_beside_it(compiled: fxcompress.Compiled, tmp_path: Path) -> None:
    path = compiled.to_onnx(tmp_path / "large.onnx")
    (data,) = tmp_path.glob("large.onnx.*.data")
    assert data.stat().st_size > 2**31 and path.stat().st_size < 2**20
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it would copy the table
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"rows": ASKED})[0], WANTED)


@pytest.mark.nightly
def test_a_file_of_openvinos_own_format(compiled: fxcompress.Compiled, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = compiled.to_openvino(tmp_path / "large.xml")
    assert path.with_suffix(".bin").stat().st_size > 2**31
    run = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_array_equal(run(ASKED)[0], WANTED)
