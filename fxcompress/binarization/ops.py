"""The operation of a binary convolution, as OpenVINO's `BinaryConvolution` behind a `FakeQuantize` of two levels has it.

It carries its name through `torch.library`, so that a lowered graph prints and runs as it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


@torch.library.custom_op("fxcompress::binary_convolution", mutates_args=())
def binary_convolution(
    x: Tensor,
    threshold: Tensor,
    signs: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The convolution of 1 where ``x > threshold``, -1 elsewhere and in the padding, with `signs`.

    Args:
        x: float ``[N, C, H, W]``.
        threshold: float ``[1, C, 1, 1]``.
        signs: -1 and 1, int8 ``[K, C, h, w]``.
        stride, padding, dilation: two numbers each.
    """
    bits = torch.where(x > threshold, 1.0, -1.0)
    height, width = padding
    bits = functional.pad(bits, (width, width, height, height), value=-1.0)
    return functional.conv2d(bits, signs.float(), None, list(stride), 0, list(dilation))


@binary_convolution.register_fake
def _(x, threshold, signs, stride, padding, dilation):
    return functional.conv2d(x, signs.to(x.dtype), None, list(stride), list(padding), list(dilation))
