"""Outputs that a model makes contiguous are so when it is compiled."""

import copy

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes


class Head(nn.Module):
    """As detectors have them: channels last, and contiguous, for whoever takes a view."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 8, 3, padding=1), how

    def forward(self, x):
        scores = self.conv(x).permute(0, 2, 3, 1)
        return {"raw": scores, "scores": self.how(scores)}


HOW = {
    "contiguous": lambda x: x.contiguous(),
    "clone": lambda x: x.clone(memory_format=torch.contiguous_format),
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("listed", [[], [passes.Quantize(), passes.Calibrate()]], ids=["bare", "quantized"])
def test_a_contiguous_output_stays_so(how, listed):
    x = torch.randn(2, 3, 8, 8)
    compiled = fxcompress.compile(Head(how), listed, data=[x])
    for model in (compiled, copy.deepcopy(compiled), compiled.train()):
        found = model(x)
        assert found["scores"].view(2, -1).shape == (2, 512)
        assert found["raw"].stride() == Head(how)(x)["raw"].stride()


def test_no_other_output_is_copied():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    compiled = fxcompress.compile(model.eval(), [], data=[x])
    assert compiled(x).is_contiguous(memory_format=torch.channels_last) == model(x).is_contiguous(
        memory_format=torch.channels_last
    )
