"""The law of equal bits, where a graph names the type that it computes in."""

import math

import torch
from torch import nn

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.verify import _agreement_in_double


class Net(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(7, 5)

    def forward(self, x):
        return self.linear(x.float() * self.factor) + torch.arange(5, dtype=torch.float32)


def test_a_graph_that_names_a_type_is_compared_in_double_precision():
    example = ExampleInputs((torch.randint(0, 20, (5, 7)),))
    torch.manual_seed(0)
    graph = capture(Net(0.1).eval(), example)
    torch.manual_seed(0)
    other = capture(Net(0.1 + 1e-9).eval(), example)
    assert _agreement_in_double([graph, graph], example) == math.inf
    assert 150 < _agreement_in_double([graph, other], example) < 190  # float32 would see none of it, or a rounding
