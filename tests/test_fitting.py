"""What a batch of data must look like."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from fxcompress.capture import capture
from fxcompress.data.fitting import batch_inputs
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError

X, Y, LABEL = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
EXAMPLE = ExampleInputs((X,))


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(4))

    def forward(self, x, y=None):
        return x * self.one if y is None else x + y * self.one


def graph_of(example: ExampleInputs) -> fx.Graph:
    return _graph(len(example.args), tuple(example.kwargs))


@cache
def _graph(count: int, names: tuple[str, ...]) -> fx.Graph:
    return capture(Sum(), ExampleInputs((X, Y)[:count], dict.fromkeys(names, Y))).graph


@given(st.integers(1, 7))
def test_any_batch_size_fits(batch):
    x = torch.zeros(batch, 4)
    assert batch_inputs(x, EXAMPLE, graph_of(EXAMPLE)).args == (x,)
    assert batch_inputs((x, LABEL), EXAMPLE, graph_of(EXAMPLE)).args == (x,)
    named = ExampleInputs((), {"x": X, "y": Y})
    assert batch_inputs({"y": x, "x": x, "label": LABEL}, named, graph_of(named)).kwargs == {"x": x, "y": x}
    assert batch_inputs((x, x), named, graph_of(named)).kwargs == {"x": x, "y": x}
    mixed = ExampleInputs((X,), {"y": Y})
    assert batch_inputs((x, x, LABEL), mixed, graph_of(mixed)) == ExampleInputs((x,), {"y": x})


MISFITS = {
    "shape": (torch.zeros(3, 5), EXAMPLE, r"inputs\[0\].*expected the shape \[batch, 4\], got \[3, 5\]; dynamic_shapes='auto'"),
    "rank": (torch.zeros(3, 4, 1), EXAMPLE, r"got \[3, 4, 1\]"),
    "dtype": (torch.zeros(3, 4, dtype=torch.uint8), EXAMPLE, r"expected torch.float32, got torch.uint8"),
    "device": (torch.zeros(3, 4, device="meta"), EXAMPLE, "on cpu, got one on meta"),
    "no samples": (torch.zeros(0, 4), EXAMPLE, "no samples"),
    "no tensor": ([[1, 2]], EXAMPLE, "torch.as_tensor|structure"),
    "number": ((X,), ExampleInputs((X, Y)), "holds 1 inputs, but the model was given 2"),
    "missing name": ({"x": X}, ExampleInputs((), {"x": X, "y": Y}), "lacks y"),
    "dict for positions": ({"x": X}, EXAMPLE, "positional"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_batch_that_does_not_fit(name):
    batch, example, message = MISFITS[name]
    with pytest.raises(InputError, match=message):
        batch_inputs(batch, example, graph_of(example))
