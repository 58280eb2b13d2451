"""Convolutions of one, two and three dimensions, and their transposes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten

Ints = int | Sequence[int]


def spread(value: Ints, count: int) -> list[int]:
    """One int per spatial dimension, as ATen reads a lone one."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


@translation(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
@translation(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
def convolution(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> ir.Value:
    spatial = emit.rank(weight) - 2
    kernel = emit.static(weight, *range(2, spatial + 2))
    dilations = spread(dilation, spatial)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel)]
        pads = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    else:
        pads = 2 * spread(0 if isinstance(padding, str) else padding, spatial)
    window = {"kernel_shape": kernel, "strides": spread(stride, spatial), "pads": pads, "dilations": dilations}
    return emit.with_batch(x, spatial + 2, lambda x: emit.Conv(x, weight, bias, **window, group=groups))


@translation(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def convolution_transpose(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> ir.Value:
    spatial = emit.rank(weight) - 2
    strides, pads, more = (spread(one, spatial) for one in (stride, padding, output_padding))
    spared = [min(pad, one) if one >= step else 0 for pad, one, step in zip(pads, more, strides)]
    window = {
        "kernel_shape": emit.static(weight, *range(2, spatial + 2)),
        "strides": strides,
        # onnxruntime takes less than a stride at the end; what would be added there need not be cropped first
        "pads": [*pads, *(pad - one for pad, one in zip(pads, spared))],
        "output_padding": [pad - one for pad, one in zip(more, spared)],
        "dilations": spread(dilation, spatial),
    }
    return emit.with_batch(x, spatial + 2, lambda x: emit.ConvTranspose(x, weight, bias, **window, group=groups))


@translation(aten.convolution.default)
def any_convolution(
    emit: Emitter,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    is_transposed: bool,
    output_padding: Ints,
    groups: int,
) -> ir.Value:
    if is_transposed:
        return convolution_transpose(emit, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(emit, x, weight, bias, stride, padding, dilation, groups)
