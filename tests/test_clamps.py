"""Clamps that quantizers take over in training: the same outputs and gradients, in one pass over memory."""

import copy
import math

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.driver import both_modes

RELU, HARDTANH, CLAMP = (getattr(torch.ops.aten, name).default for name in ("relu", "hardtanh", "clamp"))


class Activations(nn.Module):
    """A ReLU6 and a ReLU that a quantizer alone reads, and a ReLU whose floats are read as well."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.second, self.third, self.last = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.second(nn.functional.relu6(8 * self.norm(self.first(x))))
        x = self.third(x.relu()).relu()
        return self.last(x) + x.mean((1, 2, 3), keepdim=True)


def compiled_model(monkeypatch, handed_over: bool, **options):
    torch.manual_seed(0)
    if not handed_over:
        monkeypatch.setattr(both_modes, "hand_over", lambda graph_module, graph: False)
    ways = [passes.Quantize(), passes.Calibrate(), passes.TrainQuantizers(**options)]
    compiled = fxcompress.compile(Activations(), ways, data=torch.randn(4, 3, 12, 12).split(2))
    monkeypatch.undo()
    return compiled


@pytest.mark.parametrize("options", [{}, {"activations_start_epoch": 2}])
@pytest.mark.parametrize("copied", [False, True])
def test_training_is_the_same(monkeypatch, options, copied):
    x, found = 2 * torch.randn(6, 3, 12, 12), []
    for handed_over in True, False:
        compiled = compiled_model(monkeypatch, handed_over, **options)
        compiled = copy.deepcopy(compiled) if copied and handed_over else compiled
        compiled.train()
        y = compiled(x)
        y.square().sum().backward()
        found.append([y, *(one.grad for one in compiled.parameters()), *compiled.buffers(), compiled.eval()(x)])
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_only_clamps_that_nobody_else_reads_are_handed_over(monkeypatch):
    compiled = compiled_model(monkeypatch, True)

    def clamps(graph):
        return [node.target for node in graph.nodes if node.target in (RELU, HARDTANH, CLAMP)]

    assert clamps(compiled.graph) == [CLAMP, RELU, RELU]
    assert clamps(compiled._graph_in_training) == [RELU]
    within = [node.kwargs.get("within") for node in compiled._graph_in_training.find_nodes(op="call_module")]
    assert [one for one in within if one] == [(0.0, 6.0), (0.0, math.inf)]
