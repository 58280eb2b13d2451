"""Pooling. Windows that a rounded-up size adds are written as padding, which both runtimes read alike."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import Size, same
from fxcompress.emit.translate.convolution import Ints, spread
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


def _overhang(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """How far the last window reaches past the padded input where the output size is rounded up.

    A window that would start in the right padding is left out, as torch does.
    """
    reach = dilation * (kernel - 1) + 1
    count = math.ceil((size + 2 * pad - reach) / stride) + 1
    if (count - 1) * stride >= size + pad:
        count -= 1
    return max(0, (count - 1) * stride + reach - size - 2 * pad)


def _overhangs(
    emit: Emitter, x: ir.Value, kernel: list[int], stride: list[int], pad: list[int], dilation: list[int]
) -> list[int]:
    sizes = emit.static(x, *range(-len(kernel), 0))
    return [_overhang(*window) for window in zip(sizes, kernel, stride, pad, dilation)]


@translation(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(
    emit: Emitter,
    x: ir.Value,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> ir.Value:
    spatial = _spatial(emit)
    kernel, pad, dilations = spread(kernel_size, spatial), spread(padding, spatial), spread(dilation, spatial)
    strides = spread(stride, spatial) or kernel
    over = _overhangs(emit, x, kernel, strides, pad, dilations) if ceil_mode else [0] * spatial
    pads = pad + [p + o for p, o in zip(pad, over)]
    window = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    return emit.with_batch(x, spatial + 2, lambda x: emit.MaxPool(x, **window))


def _spatial(emit: Emitter) -> int:
    """The number of spatial dimensions, which the operator's own name tells."""
    return int(str(emit.node.target).split("d.")[0].split("d_")[0][-1])


def _reads_indices(emit: Emitter) -> bool:
    """Whether the second result is read; of a call inside torch's decomposition it is not known."""
    return not emit.node.users or any(user.args[1] == 1 and user.users for user in emit.node.users)


@translation(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
def max_pool_with_indices(emit: Emitter, x: ir.Value, *args: Any, **kwargs: Any) -> tuple[ir.Value, None]:
    if _reads_indices(emit):
        emit.unsupported("the indices of a max pool are used, which ONNX counts differently")
    return max_pool(emit, x, *args, **kwargs), None


@translation(aten.fractional_max_pool2d.default, aten.fractional_max_pool3d.default)
def fractional_max_pool(emit: Emitter, *_: Any) -> ir.Value:
    return emit.refuse(
        "the windows of a fractional max pool are drawn at random for each sample and channel; put nn.AdaptiveMaxPool2d (or 3d)"
        " of the same output_size in its place"
    )


@translation(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(
    emit: Emitter,
    x: ir.Value,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> ir.Value:
    spatial = _spatial(emit)
    kernel, pad = spread(kernel_size, spatial), spread(padding, spatial)
    strides = spread(stride, spatial) or kernel
    counts = count_include_pad and any(pad) and not divisor_override
    sizes = emit.shape(x)[-spatial:]
    free = ceil_mode and counts and not all(isinstance(size, int) for size in sizes)
    over = _overhangs(emit, x, kernel, strides, pad, [1] * spatial) if ceil_mode and not free else [0] * spatial
    window = {"kernel_shape": kernel, "strides": strides}

    def write(x: ir.Value) -> ir.Value:
        if divisor_override:
            padded = _zero_pad(emit, x, pad, [p + o for p, o in zip(pad, over)])
            return emit.Mul(emit.AveragePool(padded, **window), math.prod(kernel) / divisor_override)
        if free:
            return _rounded_up(emit, _zero_pad(emit, x, pad, pad), sizes, kernel, strides, pad)
        if not any(over):
            return emit.AveragePool(x, **window, pads=2 * pad, count_include_pad=int(counts))
        within = pad
        if counts:  # the padding counts, the overhang does not
            x, within = _zero_pad(emit, x, pad, pad), [0] * spatial
        pads = within + [p + o for p, o in zip(within, over)]
        return emit.AveragePool(x, **window, pads=pads, count_include_pad=0)

    return emit.with_batch(x, spatial + 2, write)


def _rounded_up(
    emit: Emitter, padded: ir.Value, sizes: Sequence[Size], kernel: list[int], strides: list[int], pad: list[int]
) -> ir.Value:
    """Averages of `padded`, which counts, up to the last window that starts in front of the padding behind."""
    pooled = emit.AveragePool(padded, kernel_shape=kernel, strides=strides, ceil_mode=1)
    if all(p + stride <= size for p, stride, size in zip(pad, strides, kernel)):
        return pooled  # no window starts there
    ends = emit.sizes([(size + p - 1) // stride + 1 for size, p, stride in zip(sizes, pad, strides)])
    axes = list(range(2, 2 + len(pad)))
    return emit.Slice(pooled, [0] * len(pad), ends, axes)


def _zero_pad(emit: Emitter, x: ir.Value, before: list[int], after: list[int]) -> ir.Value:
    return emit.Pad(x, [0, 0, *before, 0, 0, *after]) if any(before + after) else x


@translation(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
@translation(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
def adaptive_avg_pool(emit: Emitter, x: ir.Value, output_size: Sequence[Any]) -> ir.Value:
    return _adaptive(emit, x, output_size, "AveragePool", "ReduceMean")


@translation(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_max_pool(emit: Emitter, x: ir.Value, output_size: Sequence[Any]) -> tuple[ir.Value, None]:
    if _reads_indices(emit):
        emit.unsupported("the indices of an adaptive max pool are used, which ONNX does not give")
    return _adaptive(emit, x, output_size, "MaxPool", "ReduceMax"), None


def _adaptive(emit: Emitter, x: ir.Value, output_size: Sequence[Any], pool: str, reduce: str) -> ir.Value:
    rank = len(output_size) + 2
    return emit.with_batch(x, rank, lambda x: _adaptive_batch(emit, x, output_size, pool, reduce))


def _adaptive_batch(emit: Emitter, x: ir.Value, output_size: Sequence[Any], pool: str, reduce: str) -> ir.Value:
    spatial = len(output_size)
    if all(size == 1 for size in output_size):
        return emit.op(f"Global{pool}", x)
    sizes = emit.shape(x)[-spatial:]
    targets = [size if target is None else target for size, target in zip(sizes, output_size)]
    if all(map(same, sizes, targets)):
        return x
    if all(isinstance(size, int) for size in [*sizes, *targets]) and not any(map(operator.mod, sizes, targets)):
        kernel = [size // target for size, target in zip(sizes, targets)]
        return emit.op(pool, x, kernel_shape=kernel, strides=kernel)
    for axis, size, target in zip(range(2, spatial + 2), sizes, targets):
        x = _adaptive_axis(emit, x, axis, size, target, reduce)
    return x


def _adaptive_axis(emit: Emitter, x: ir.Value, axis: int, size: Size, target: Size, reduce: str) -> ir.Value:
    """Window i of an adaptive pool spans floor(i * size / target) to ceil((i + 1) * size / target); `size` may be symbolic."""
    if same(size, target):
        return x
    if not isinstance(target, int):
        emit.unsupported(f"an adaptive pool with {target} windows, a number that no file can hold windows for")
    windows = [(i * size // target, ((i + 1) * size + target - 1) // target) for i in range(target)]
    pieces = [emit.Slice(x, emit.sizes([start]), emit.sizes([end]), [axis]) for start, end in windows]
    reduced = [emit.op(reduce, piece, [axis], keepdims=1) for piece in pieces]
    return reduced[0] if target == 1 else emit.Concat(*reduced, axis=axis)
