"""Calibration in bfloat16: no operation meets two types, and what loses too much stays in float32."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.low_precision import choose_arithmetic

INDEX = torch.tensor([0, 2])
ROWS = torch.zeros(4, 8, dtype=torch.long)

MIXED = {
    "index_put": lambda x, y: torch.zeros_like(x).index_put((torch.arange(4), ROWS[:, 0]), y[:, 0]) + x,
    "scatter": lambda x, y: torch.zeros_like(x).scatter(1, ROWS, y),
    "scatter_add": lambda x, y: x.scatter_add(1, ROWS, y),
    "index_add": lambda x, y: x.index_add(1, INDEX, y[:, :2]),
    "index_copy": lambda x, y: x.index_copy(1, INDEX, y[:, :2]),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp of a tensor": lambda x, y: torch.lerp(x, y, x.sigmoid()),
    "dot": lambda x, y: y * torch.dot(x[0], y[0]),
    "addmm": lambda x, y: torch.addmm(x, y, torch.eye(8)),
    "baddbmm": lambda x, y: torch.baddbmm(x[None], y[None], torch.eye(8)[None])[0],
    "where": lambda x, y: torch.where(x > 0, x, y),
    "masked_scatter": lambda x, y: x.masked_scatter(x > 0, y),
    "slice_scatter": lambda x, y: x.slice_scatter(y[:, :4], 1, 0, 4),
    "cat": lambda x, y: torch.cat([x, y], 1)[:, 4:12],
    "cdist": lambda x, y: torch.cdist(x, y) @ y,
    "einsum": lambda x, y: torch.einsum("bi,bj->bij", x, y).sum(1),
    "prelu": lambda x, y: torch.prelu(y, torch.full((8,), 0.2)),
    "cross": lambda x, y: torch.linalg.cross(x[:, :3], y[:, :3]) @ torch.ones(3, 8),
}


class Mix(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.function(x, self.first(x)))


@pytest.mark.parametrize("name", MIXED)
def test_operations_of_two_values_meet_one_type(name):
    x = torch.randn(4, 8)
    compiled = fxcompress.compile(Mix(MIXED[name]), [passes.Quantize(), passes.Calibrate(precision="bfloat16")], data=[x])
    assert "bfloat16 forward" in str(compiled.report.notes)


def test_bilinear():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.bilinear = nn.Linear(8, 8), nn.Bilinear(8, 8, 3)

        def forward(self, x):
            return self.bilinear(x, self.linear(x))

    fxcompress.compile(Pair(), [passes.Quantize(), passes.Calibrate(precision="bfloat16")], data=[torch.randn(4, 8)])


class Biased(nn.Module):
    """A layer norm takes away what the layer before it is mostly made of."""

    def __init__(self, bias):
        super().__init__()
        self.before, self.first, self.norm, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        nn.init.constant_(self.first.bias, bias)

    def forward(self, x):
        return self.last(self.norm(self.first(self.before(x).relu()).abs()))


def low_nodes(model, x):
    graph_module = capture(model.eval(), ExampleInputs((x,)))
    return {node.name for node in choose_arithmetic("bfloat16", graph_module, [x]).low}


def test_what_rounding_spoils_later_on_stays_in_float32_and_nothing_else():
    x = torch.randn(64, 16)
    assert low_nodes(Biased(0.0), x) == {"before", "first", "last"}
    assert low_nodes(Biased(100.0), x) == {"before", "last"}


def test_ranges_behind_a_large_bias_are_those_of_float32():
    x = torch.randn(64, 16)
    torch.manual_seed(0)
    model = Biased(300.0)
    scales = []
    for precision in ("bfloat16", "float32"):
        compiled = fxcompress.compile(model, [passes.Quantize(), passes.Calibrate(precision=precision)], data=[x])
        scales.append(torch.stack([q.scale for q in compiled.modules() if getattr(q, "scale", torch.ones(2)).dim() == 0]))
    assert torch.allclose(*scales, rtol=0.02)


def test_values_agree_with_float32_and_moves_keep_the_type():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)).eval()
    x = torch.randn(4, 3, 8, 8)
    graph_module = capture(model, ExampleInputs((x,)))
    execution = Execution(graph_module, [x], choose_arithmetic("bfloat16", graph_module, [x]))
    *_, last, output = graph_module.graph.nodes
    execution.advance(last)
    assert execution.value(last.args[0]).dtype == torch.bfloat16
    execution.advance(output)
    assert torch.allclose(execution.value(last).float(), model(x), atol=0.02)


def test_a_mask_of_the_lowest_float32_is_no_infinity():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x, mask):
            y = self.linear(x)[:, None]
            return nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=mask)

    x, mask = torch.randn(2, 5, 8), torch.full((2, 1, 5, 5), torch.finfo(torch.float32).min)
    compiled = fxcompress.compile(
        Attention(), [passes.Quantize(), passes.Calibrate(precision="bfloat16")], data=[(x, torch.zeros_like(mask)), (x, mask)]
    )
    assert compiled.report.rows[-1].decibels > 25


def test_a_convolution_that_puts_out_padding_alone_stays_in_float32():
    """In bfloat16, torch 2.13 reads beyond its input there on CPUs with AMX, and may die."""
    model = nn.Sequential(nn.Conv2d(8, 8, 2, padding=(2, 1), dilation=(3, 2)), nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 8, 1, 9)
    graph_module = capture(model, ExampleInputs((x,)))
    low = choose_arithmetic("bfloat16", graph_module, [x]).low
    assert [node.name for node in low] == ["_1"]
