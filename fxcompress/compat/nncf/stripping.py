"""Compressed models with torch's own fake quantization, for exporters that know no other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxcompress.quantizers.quantizer import Quantizer


def stripped(model: nn.Module) -> nn.Module:
    """`model` itself, in inference mode, with torch's fake quantization in place of its quantizers."""
    quantizers = [(path, one) for path, one in model.named_modules() if isinstance(one, Quantizer)]
    for path, quantizer in quantizers:
        model.set_submodule(path, FakeQuantize(quantizer))
    return model.eval()


class FakeQuantize(nn.Module):
    """Torch's fake quantization on all 8 bits, behind a clamp to the levels that the quantizer has.

    This is the same function for every grid of up to 8 bits, and torch's exporters know no other than that of 8 bits.
    """

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        low, high = quantizer.levels
        self.axis = None if quantizer.spec.group_size else quantizer.spec.scale_axis
        self.enabled, self.full = quantizer.enabled, (-128, 127) if low < 0 else (0, 255)
        scale, zero_point = quantizer.scale.detach().clone(), quantizer.zero_point.detach().clone().to(torch.int32)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.lowest: Tensor | None
        self.highest: Tensor | None
        clamps = (low, high) != self.full
        self.register_buffer("lowest", (low - zero_point) * scale if clamps else None)
        self.register_buffer("highest", (high - zero_point) * scale if clamps else None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self.lowest is not None and self.highest is not None:
            shape = [1] * x.dim()
            if self.axis is not None:
                shape[self.axis] = -1
            x = torch.maximum(torch.minimum(x, self.highest.reshape(shape)), self.lowest.reshape(shape))
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *self.full)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.axis, *self.full)
