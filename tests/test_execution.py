"""A graph run node by node."""

import torch
from torch import fx

from fxcompress.execution.interpreter import Execution

aten = torch.ops.aten


def test_a_graph_deeper_than_the_stack_runs():
    graph = fx.Graph()
    value = graph.placeholder("x")
    for _ in range(3000):
        value = graph.call_function(aten.neg.default, (value,))
    graph.output(value)
    execution = Execution(fx.GraphModule(torch.nn.Module(), graph), [torch.ones(1)])
    execution.advance(value)
    execution.run(value)
    assert execution.value(value).item() == 1.0
