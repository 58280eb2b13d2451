"""What joins values, expands one, or sums up what was looked up: files run, and compute the same."""

from __future__ import annotations

import pytest
import torch
from emission import Call
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes

REPEATS = {
    "written into": lambda x: torch.slice_scatter(x, x[:, 1:] * 2, 1, 0, x.shape[1] - 1),
    "twice": lambda x: torch.cat([x[:, 1:], x[:, 1:]], 1),
    "alike": lambda x: torch.cat([x[:, :1].tanh() * 3, x[:, 0:1].tanh() * 3], 1),
    "step": lambda x: torch.cat([x[:, 1:], x[:, 1:]], 1).relu() - 1,
    "swapped": lambda x: torch.cat([x[:, 1:], x[:, 1:]], 1).transpose(2, 3),
    "stacked": lambda x: torch.stack([x[:, 0], x[:, 0]], 1),
    "not alike": lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
}


@pytest.mark.parametrize("repeat", REPEATS.values(), ids=REPEATS)
@pytest.mark.parametrize("padding", [(0, 1), (2, 1)])
def test_what_is_joined_with_itself(tmp_path, repeat, padding):
    torch.manual_seed(0)
    x = torch.randn(4, 2, 1, 1)
    compiled = fxcompress.compile(nn.Sequential(Call(repeat), nn.Conv2d(2, 3, 1, padding=padding)).eval(), data=[(x,)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")  # in a child process, which the fault would kill


EXPANDED = {
    "clamp": lambda x: x[:, :1].expand(-1, 2).clamp(-0.5, 0.25),
    "step": lambda x: x[:, :1].expand(-1, 2).relu(),
    "added to nothing": lambda x: (x[:, :1] + torch.zeros(1, 2)).clamp(-0.5, 0.25),
    "swapped": lambda x: x.unsqueeze(2).expand(-1, -1, 2).transpose(1, 2).relu(),
    "like another": lambda x: nn.functional.hardtanh(x[:, 1:].expand_as(x)),
}


@pytest.mark.parametrize("expand", EXPANDED.values(), ids=EXPANDED)
def test_what_is_expanded_and_quantized(tmp_path, expand):
    torch.manual_seed(0)
    x = torch.randn(5, 2)
    compiled = fxcompress.compile(nn.Sequential(Call(expand), nn.Linear(2, 1)).eval(), data=[(x,)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")


JOINED = {
    "joined": lambda a, b: torch.cat([a, b], 1),
    "of factors": lambda a, b: torch.cat([a * 2, b], 1),
    "scaled": lambda a, b: torch.cat([a, b], 1) * 2,
    "rolled": lambda a, b: (a + b).roll(1, 2),
    "padded with itself": lambda a, b: nn.functional.pad(a + b, (1, 1, 1, 1), mode="circular"),
    "picked": lambda a, b: torch.cat([a, b], 1)[:, 1:7],
    "pooled": lambda a, b: nn.functional.max_pool2d(torch.cat([a, b], 1), 2),
    "turned": lambda a, b: torch.cat([a, b], 1).transpose(2, 3),
    "shuffled": lambda a, b: nn.functional.pixel_shuffle(torch.cat([a, b], 1), 2),
    "shuffled back": lambda a, b: nn.functional.pixel_unshuffle(torch.cat([a, b], 1), 2),
    "joined again": lambda a, b: torch.cat([torch.cat([a, b], 1), a], 1),
}


class Joined(nn.Module):
    """Two convolutions, what joins them, and another one."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.a, self.b, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.LazyConv2d(4, 3, padding=1)

    def forward(self, x):
        return self.last(self.join(self.a(x), self.b(x)))


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
@pytest.mark.parametrize("signed", [True, False])
def test_a_convolution_of_what_is_joined(tmp_path, join, signed):
    torch.manual_seed(0)
    model, x = Joined(join), torch.randn(4, 4, 8, 8)
    model(x)
    activations = QuantizationSpec(symmetric=signed)
    compiled = fxcompress.compile(model.eval(), [passes.Quantize(activations=activations), passes.Calibrate()], data=[(x,)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")


class Bags(nn.Module):
    """A sum of what is looked up for one word each, beside a layer that reads the words as numbers."""

    def __init__(self):
        super().__init__()
        self.layer, self.bag = nn.Linear(1, 3), nn.EmbeddingBag(20, 3, mode="sum")

    def forward(self, x):
        return self.layer(x.float() * 0.1), self.bag(x)


def test_a_sum_of_one_row_of_a_table(tmp_path):
    x = torch.randint(20, (5, 1))
    compiled = fxcompress.compile(Bags().eval(), [passes.Quantize(per_channel=False), passes.Calibrate()], data=[(x,)])
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
