"""Deep networks, and those whose values fork and join again and again: work grows with the nodes, not with the paths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes

STEPS = {
    "computes": lambda x: x.relu().neg(),
    "moves": lambda x: x.transpose(1, 2),
    "computes and joins": lambda x: x * 0.5 + x.relu(),
    "computes by a part and joins": lambda x: x * x.sigmoid(),
    "moves and joins": lambda x: torch.cat([x, x.flip(1)], 1)[:, 1:9],
}
STACKS = {
    "quantized": lambda: None,
    "float": list,
    "pruned": lambda: [passes.PruneFilters(amount=0.3), *fxcompress.defaults.training()],
    "mixed": lambda: [passes.Quantize(), passes.Calibrate(), passes.RestorePrecision(max_size=0.9)],
}


class Repeated(nn.Module):
    """A layer, `step` so many times, and a layer."""

    def __init__(self, step, count):
        super().__init__()
        self.step, self.count = step, count
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.count):
            x = STEPS[self.step](x)
        return self.last(x)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stack", STACKS)
def test_values_that_fork_and_join_are_searched_once(step, stack, tmp_path):
    """There are 2 ** 30 paths."""
    compiled = fxcompress.compile(Repeated(step, 30), STACKS[stack](), data=[torch.randn(4, 8, 8)])
    compiled.to_onnx(tmp_path / "model.onnx", verify=False)


def test_a_network_deeper_than_the_stack(tmp_path):
    compiled = fxcompress.compile(Repeated("computes", 520), [], example_inputs=torch.randn(4, 8, 8))
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
