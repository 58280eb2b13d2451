"""The operations that a lowered graph uses: quantize and dequantize, with ONNX semantics, and what unpacks constants.

They carry their names through `torch.library`, so that a lowered graph prints, runs and exports as it reads. Constants of 4
bits and fewer lie two in a byte, as in the file; `unpack` gives each a byte of its own.

Source: ONNX operators QuantizeLinear and DequantizeLinear, opset 21 (rounding half to even, saturation, blocks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int32": (-(2**31), 2**31 - 1),
}
"""Lowest and highest value of each integer type a lowered graph may hold."""

STORAGE = {"int8": torch.int8, "uint8": torch.uint8, "int4": torch.int8, "uint4": torch.uint8, "int32": torch.int32}
"""The torch type that holds each of them; 4-bit values that are computed with take a byte."""


def along(values: Tensor, axis: int | None, block_size: int, shape: torch.Size) -> Tensor:
    """`values` (one per tensor, per index of `axis`, or per block along `axis`) broadcast against `shape`."""
    if axis is None:
        return values
    if block_size:
        return values.repeat_interleave(block_size, dim=axis).narrow(axis, 0, shape[axis])
    view = [1] * len(shape)
    view[axis] = -1
    return values.reshape(view)


@torch.library.custom_op("fxcompress::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, dtype: str, block_size: int = 0) -> Tensor:
    """``saturate(round(x / scale) + zero_point)`` as `dtype`, rounding half to even.

    Args:
        x: float tensor of any shape.
        scale: positive floats; shape ``[]`` (per tensor), ``[x.shape[axis]]`` (per channel), or that of `x` with `axis`
            divided by `block_size` (per block).
        zero_point: integers of `scale`'s shape.
        axis: the channel or block axis; None per tensor.
        dtype: a key of `INTEGER_RANGES`.
        block_size: elements that share a scale along `axis`; 0 for none.
    """
    low, high = INTEGER_RANGES[dtype]
    steps = torch.round(x / along(scale, axis, block_size, x.shape))
    return torch.clamp(steps + along(zero_point, axis, block_size, x.shape), low, high).to(STORAGE[dtype])


@quantize.register_fake
def _(x, scale, zero_point, axis, dtype, block_size=0):
    return torch.empty_like(x, dtype=STORAGE[dtype])


@torch.library.custom_op("fxcompress::dequantize", mutates_args=())
def dequantize(
    q: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, dtype: str, block_size: int = 0, widened: bool = False
) -> Tensor:
    """``(q - zero_point) * scale`` as float; the arguments are those of `quantize`, `q` its result.

    With `widened`, 4-bit integers relative to their zero point become 8-bit ones before they are scaled, for kernels that read
    those.
    """
    result = q.to(scale.dtype, copy=True)  # and in place: a weight may be a quarter of the model
    blocks, points = result, zero_point.to(scale.dtype)
    if axis is not None and block_size and q.shape[axis] % block_size == 0:
        within = axis % q.dim() + 1
        blocks = result.unflatten(axis, (-1, block_size))
        blocks.sub_(points.unsqueeze(within)).mul_(scale.unsqueeze(within))
    else:
        blocks.sub_(along(points, axis, block_size, q.shape)).mul_(along(scale, axis, block_size, q.shape))
    return result


@dequantize.register_fake
def _(q, scale, zero_point, axis, dtype, block_size=0, widened=False):
    return torch.empty_like(q, dtype=scale.dtype)


def pack(integers: Tensor) -> Tensor:
    """4-bit `integers`, one a byte, of any shape, as uint8 ``[half as many]``: two a byte, the first in the low half."""
    nibbles = integers.reshape(-1).to(torch.uint8) & 0xF  # of int8, the two's complement
    if nibbles.numel() % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return nibbles[0::2] | nibbles[1::2] << 4


@torch.library.custom_op("fxcompress::unpack", mutates_args=())
def unpack(packed: Tensor, shape: Sequence[int], dtype: str) -> Tensor:
    """The integers of `shape` that `pack` packed, one a byte, signed where `dtype` is ``"int4"``."""
    halves = torch.stack((packed & 0xF, packed >> 4), 1).reshape(-1)[: math.prod(shape)].view(*shape)
    return ((halves.view(torch.int8) ^ 8) - 8) if dtype == "int4" else halves


@unpack.register_fake
def _(packed, shape, dtype):
    return packed.new_empty(shape, dtype=STORAGE[dtype])


QUANTIZE, DEQUANTIZE = torch.ops.fxcompress.quantize.default, torch.ops.fxcompress.dequantize.default
UNPACK = torch.ops.fxcompress.unpack.default
"""The operations, as a graph calls them."""
