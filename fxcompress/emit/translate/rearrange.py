"""Padding, triangles, patches, and channels traded for space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.types import number

aten = torch.ops.aten
_END = 2**63 - 1


def _onnx_pads(emit: Emitter, x: ir.Value, pad: Sequence[Any]) -> list[Any]:
    """torch lists (before, after) from the last dimension on; ONNX all befores, then all afters."""
    untouched = [0] * (emit.rank(x) - len(pad) // 2)
    return [*untouched, *reversed(pad[0::2]), *untouched, *reversed(pad[1::2])]


def _is_nothing(pad: Sequence[Any]) -> bool:
    """Whether all of `pad` are zeros: one that is a free size may be, in the example."""
    return all(isinstance(size, int) and size == 0 for size in pad)


@translation(aten.constant_pad_nd.default)
def constant_pad(emit: Emitter, x: ir.Value, pad: Sequence[Any], value: Any = 0) -> ir.Value:
    if _is_nothing(pad):
        return x
    if emit.dtype(x) == torch.bool:
        padded = emit.Pad(emit.cast(x, torch.int32), _onnx_pads(emit, x, pad), int(value or 0))
        return emit.cast(padded, torch.bool)
    return emit.Pad(x, _onnx_pads(emit, x, pad), number(value or 0, emit.dtype(x)))


@translation(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(emit: Emitter, x: ir.Value, padding: Sequence[Any]) -> ir.Value:
    return emit.Pad(x, _onnx_pads(emit, x, padding), mode="reflect")


@translation(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(emit: Emitter, x: ir.Value, padding: Sequence[Any]) -> ir.Value:
    return _edge_pad(emit, x, padding)


def _edge_pad(emit: Emitter, x: ir.Value, padding: Sequence[Any]) -> ir.Value:
    """What is cropped is cropped last: there may be nothing left to repeat."""
    cropped = [isinstance(size, int) and size < 0 for size in padding]
    if not any(cropped):
        return emit.Pad(x, _onnx_pads(emit, x, padding), mode="edge")
    grown = emit.Pad(x, _onnx_pads(emit, x, [0 if crop else size for size, crop in zip(padding, cropped)]), mode="edge")
    return emit.Pad(grown, _onnx_pads(emit, x, [size if crop else 0 for size, crop in zip(padding, cropped)]))


@translation(aten.pad.default)
def pad(emit: Emitter, x: ir.Value, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> ir.Value:
    if mode == "constant":
        return constant_pad(emit, x, pad, value)
    if mode == "circular":
        return _circular_pad(emit, x, pad)
    if mode == "replicate":
        return _edge_pad(emit, x, pad)
    return emit.Pad(x, _onnx_pads(emit, x, pad), mode="reflect")


def _circular_pad(emit: Emitter, x: ir.Value, pad: Sequence[Any]) -> ir.Value:
    """By slices, since OpenVINO has no Pad that wraps."""
    sizes = emit.shape(x)
    for axis, before, after in zip(range(emit.rank(x) - 1, 0, -1), pad[0::2], pad[1::2]):
        start = -before if isinstance(before, int) else sizes[axis] - before  # none at all may be 0 of them
        head = [] if _is_nothing([before]) else [emit.Slice(x, [start], [_END], [axis])]
        tail = [] if _is_nothing([after]) else [emit.Slice(x, [0], [after], [axis])]
        x = emit.Concat(*head, x, *tail, axis=axis) if head or tail else x
    return x


@translation(aten.pixel_shuffle.default)
def pixel_shuffle(emit: Emitter, x: ir.Value, upscale_factor: int) -> ir.Value:
    return emit.DepthToSpace(x, blocksize=upscale_factor, mode="CRD")


@translation(aten.pixel_unshuffle.default)
def pixel_unshuffle(emit: Emitter, x: ir.Value, downscale_factor: int) -> ir.Value:
    batch, channels, height, width = emit.shape(x)
    r = downscale_factor
    apart = [batch, channels, height // r, r, width // r, r]
    spread = emit.Transpose(emit.reshape(x, [batch, channels, height, width], apart), perm=[0, 1, 3, 5, 2, 4])
    return emit.reshape(spread, [batch, channels, r, r, height // r, width // r], emit.result.shape)


@translation(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(emit: Emitter, x: ir.Value, groups: int) -> ir.Value:
    batch, channels, *places = emit.shape(x)
    apart = [batch, groups, channels // groups, *places]
    order = [0, 2, 1, *range(3, 3 + len(places))]
    swapped = emit.Transpose(emit.reshape(x, emit.shape(x), apart), perm=order)
    return emit.reshape(swapped, [batch, channels // groups, groups, *places], emit.result.shape)


@translation(aten.tril.default)
def tril(emit: Emitter, x: ir.Value, diagonal: int = 0) -> ir.Value:
    return _triangle(emit, x, diagonal, upper=0)


@translation(aten.triu.default)
def triu(emit: Emitter, x: ir.Value, diagonal: int = 0) -> ir.Value:
    return _triangle(emit, x, diagonal, upper=1)


def _triangle(emit: Emitter, x: ir.Value, diagonal: int, upper: int) -> ir.Value:
    if emit.dtype(x) == torch.bool:  # the runtimes cut triangles of numbers only
        return emit.cast(emit.Trilu(emit.cast(x, torch.int64), diagonal, upper=upper), torch.bool)
    return emit.Trilu(x, emit.constant(torch.tensor(diagonal)), upper=upper)


@translation(aten.im2col.default)
def im2col(
    emit: Emitter,
    x: ir.Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> ir.Value:
    """Patches by two gathers, along rows and then along columns."""
    batch, channels = emit.shape(x)[:2]
    sizes = emit.static(x, 2, 3)
    if any(padding):
        x = emit.Pad(x, [0, 0, *padding, 0, 0, *padding])
    grids = []
    for axis in (0, 1):
        count = (sizes[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        grids.append(torch.arange(kernel[axis])[:, None] * dilation[axis] + torch.arange(count)[None, :] * stride[axis])
    rows = emit.Gather(x, grids[0], axis=2)
    patches = emit.Transpose(emit.Gather(rows, grids[1], axis=4), perm=[0, 1, 2, 4, 3, 5])
    apart = [batch, channels, kernel[0], kernel[1], grids[0].shape[1], grids[1].shape[1]]
    return emit.reshape(patches, apart, emit.result.shape)


@translation(aten.col2im.default)
def col2im(
    emit: Emitter,
    x: ir.Value,
    output_size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> ir.Value:
    window = {"dilations": list(dilation), "pads": [*padding, *padding], "strides": list(stride)}
    return emit.Col2Im(x, list(output_size), list(kernel), **window)
