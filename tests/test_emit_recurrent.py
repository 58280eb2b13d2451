"""Recurrent layers in ONNX, in both runtimes, at several batch sizes and lengths."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from emission import assert_same, checked, in_onnxruntime, in_openvino
from torch import Tensor, nn

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import FxCompressError

RUNTIMES = (in_onnxruntime, in_openvino)
LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Sequence(nn.Module):
    """A recurrent layer between two linear ones; the last states are outputs as well."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.layer = LAYERS[kind](4, 5, **options)

    def forward(self, x: Tensor) -> Any:
        return self.layer(self.first(x))


@pytest.mark.parametrize(("kind", "bidirectional"), list(product(LAYERS, (False, True))))
def test_recurrent_layers(kind: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    model = Sequence(kind, batch_first=True, bidirectional=bidirectional, num_layers=2, bias=not bidirectional)
    counts = assert_same(model, torch.randn(2, 7, 6), runtimes=RUNTIMES)
    assert counts[kind] == 2 and "Shape" not in counts, counts


def test_relu_and_sequence_first() -> None:
    model = Sequence("RNN", nonlinearity="relu", bidirectional=True)
    x = torch.randn(3, 2, 6)
    graph = capture(model.eval(), ExampleInputs((x,)), dynamic_shapes=({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},))
    serialized = checked(to_onnx_model(graph))
    for steps, batch in product((1, 4, 9), (1, 2, 5)):
        x = torch.randn(steps, batch, 6)
        for runtime in RUNTIMES:
            for found, wanted in zip(runtime(serialized, [x]), model(x)):
                torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=1e-4)


def test_states_that_are_given() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(6, 5, batch_first=True, num_layers=2)

        def forward(self, x: Tensor, h: Tensor) -> Any:
            h = h.transpose(0, 1).contiguous()
            return self.layer(x, (h, h * 2))

    assert_same(Net(), torch.randn(2, 7, 6), torch.randn(2, 2, 5), runtimes=RUNTIMES)


def test_projections() -> None:
    counts = assert_same(
        Sequence("LSTM", batch_first=True, proj_size=3, bidirectional=True), torch.randn(2, 4, 6), runtimes=RUNTIMES
    )
    assert counts["LSTM"] == 0


@pytest.mark.parametrize("cell", [nn.LSTMCell(6, 5), nn.GRUCell(6, 5), nn.RNNCell(6, 5), nn.RNNCell(6, 5, nonlinearity="relu")])
def test_cells_are_linear_layers(cell: nn.Module) -> None:
    counts = assert_same(cell, torch.randn(2, 6), runtimes=RUNTIMES)
    assert counts["Gemm"] == 2


def test_packed_sequences_are_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(6, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 3]), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]

    with pytest.raises(FxCompressError, match="packed"):
        to_onnx_model(capture(Net().eval(), ExampleInputs((torch.randn(2, 7, 6),))))
