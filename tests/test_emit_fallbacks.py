"""Operators without a translation of ours: torchlib's, or torch's decomposition, in both runtimes and at every batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from emission import Call, assert_same, captured, in_onnxruntime, in_openvino
from torch import Tensor, nn

from fxcompress.emit import decomposition
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.translation import UntranslatableError

ROWS = torch.randn(2, 5, 8)
RUNTIMES = (in_onnxruntime, in_openvino)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "hsplit": lambda x: torch.hsplit(x, 5)[2],
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "trapezoid": lambda x: torch.trapezoid(x),
    "stepped_write": lambda x: torch.slice_scatter(x, x[:, ::2] * 2, 1, 0, 5, 2),
    "outer_sum": lambda x: torch.add(x.unsqueeze(1), x.unsqueeze(2)).diagonal(dim1=1, dim2=2),
    "promoted": lambda x: torch.logaddexp((x * 4).to(torch.int64).double(), x.double()).float(),
    "mse": lambda x: F.mse_loss(x, x.flip(1), reduction="none"),
    "squared_distance_of_integers": lambda x: torch.atan2((x * 4).to(torch.int64), (x.flip(1) * 4).to(torch.int64) + 20),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_without_a_translation_of_ours(name: str) -> None:
    assert_same(FUNCTIONS[name], ROWS, runtimes=RUNTIMES)


def test_infinities_are_replaced() -> None:
    x = ROWS.clone()
    x[:, 0], x[:, 1], x[:, 2] = torch.nan, torch.inf, -torch.inf
    assert_same(lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), x, runtimes=RUNTIMES)


def test_names_are_those_of_the_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join = Call(lambda x: torch.logcumsumexp(x, 1) + torch.nan_to_num(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.join(x)

    model = to_onnx_model(captured(Net(), ROWS))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert all(str(name).startswith("join_") for name in names), names


def test_a_decomposition_for_one_batch_size_is_refused() -> None:
    """What torch unrolls or fixes for the size of the example must not come into a file for every size."""
    graph = captured(Call(lambda x: x * 2), ROWS).graph
    (x,) = (node.meta["val"] for node in graph.find_nodes(op="placeholder"))
    with pytest.raises(UntranslatableError, match="sizes of the example only"), decomposition.free_sizes(x.fake_mode):
        assert int(x.shape[0]) == 2
    assert not isinstance(x.shape[0].node.maybe_as_int(), int)
