"""What joins a value with itself, before a convolution that reads more padding than values, runs in both runtimes."""

from __future__ import annotations

import pytest
import torch
from emission import Call
from torch import nn

import fxcompress

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
