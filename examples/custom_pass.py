"""A rule and a pass of your own between the ones that come with fxcompress."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fxcompress
from fxcompress import Effect, Pass, op, passes, rewrite, var

x = var("x")


class Block(nn.Module):
    """A convolution and the quick GELU of CLIP, written by hand: x * sigmoid(1.702 x)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x):
        x = self.conv(x)
        x = x * torch.sigmoid(1.702 * x)
        return self.classifier(x.mean((2, 3)))


@rewrite(x * op.sigmoid(op.mul(x, 1.702)))
def put_gelu(new, x):
    """The real GELU is near, and runs inside the convolution's kernel."""
    return new.gelu(x)


@dataclass(frozen=True, kw_only=True)
class FuseActivations(Pass):
    effect: ClassVar[Effect] = Effect.LOSSY  # not the same function: the report says how far off

    def run(self, graph_module, context):
        return context.apply([put_gelu], graph_module)


torch.manual_seed(0)
images = torch.randn(64, 3, 32, 32)
compiled = fxcompress.compile(
    Block(),
    [passes.FoldBatchNorm(), FuseActivations(), passes.Quantize(), passes.Calibrate()],
    data=images.split(8),
)
print(compiled.report)
print(f"wrote {compiled.to_onnx('custom.onnx')}")
