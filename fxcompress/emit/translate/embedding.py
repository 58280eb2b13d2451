"""Embeddings: rows of a table, which may be integers that are dequantized after the look-up.

Looked up after the dequantize, onnxruntime would dequantize the whole table at each inference, and OpenVINO would hold a
table with blocks in float. So the integers are looked up, and the scales of their rows. ONNX looks up no 4-bit integers:
a row of them is stored as bytes, its first half in the low halves of the bytes, its second half in the high ones.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn.functional import pad

from fxcompress.emit.translate.quantization import Dequantized, dequantized
from fxcompress.emit.translation import Emitter, translation
from fxcompress.quantizers.ops import INTEGER_RANGES

aten = torch.ops.aten


@translation(aten.embedding.default)
def embedding(emit: Emitter, weight: ir.Value, indices: ir.Value, *_: Any) -> ir.Value:
    table = dequantized(weight)
    if table is None or (table.block_size and table.axis == 0) or emit.data(table.scale) is None:
        return emit.Gather(weight, indices, axis=0)
    (width,) = emit.static(weight, 1)
    block = min(table.block_size, width)
    padded = width + (-width % block if block else 0)
    rows = _rows(emit, table, indices, padded)
    shape = [*emit.shape(indices), padded]
    split = [*emit.shape(indices), padded // block, block] if block else shape
    rows = emit.reshape(rows, shape, split) if block else rows
    result = _dequantized_rows(emit, table, rows, indices)
    result = emit.reshape(result, split, shape) if block else result
    return result if padded == width else emit.Slice(result, [0], [width], [-1])


def _rows(emit: Emitter, table: Dequantized, indices: ir.Value, width: int) -> ir.Value:
    """The rows' integers as floats, zeros behind them up to `width`, 4-bit ones raised to be unsigned."""
    data, scale = emit.data(table.integers), emit.data(table.scale)
    assert data is not None and scale is not None
    if data.shape[1] < width:
        data = pad(data, (0, width - data.shape[1]))
    if table.dtype not in ("int4", "uint4"):
        held = emit.derived(table.integers, ("rows", width), lambda: emit.stored(data, table.integers.name or "table"))
        return emit.cast(emit.Gather(held, indices, axis=0), scale.dtype)
    packed = emit.derived(
        table.integers, ("bytes", width), lambda: emit.stored(_bytes(data, table), f"{table.integers.name}_bytes")
    )
    found = emit.cast(emit.Gather(packed, indices, axis=0), scale.dtype)
    high = emit.Floor(emit.Mul(found, 1 / 16))
    both = emit.Concat(emit.Sub(found, emit.Mul(high, 16.0)), high, axis=-1)
    return both if width % 2 == 0 else emit.Slice(both, [0], [width], [-1])


def _bytes(data: Tensor, table: Dequantized) -> Tensor:
    """Two 4-bit integers a byte: those of column j and of column ``half + j``."""
    data = pad(data, (0, data.shape[1] % 2)).to(torch.int16) - INTEGER_RANGES[table.dtype][0]
    low, high = data.chunk(2, dim=1)
    return (low | high << 4).to(torch.uint8)


def _dequantized_rows(emit: Emitter, table: Dequantized, rows: ir.Value, indices: ir.Value) -> ir.Value:
    """``(rows - zero point) * scale``; the last dimension of `rows` is a block, where there are blocks."""
    scale, points = emit.data(table.scale), emit.data(table.zero_point)
    if scale is None or points is None:
        emit.unsupported("the scale or the zero point of the table is not a constant")
    if table.dtype == "int4":
        points = points.to(torch.int16) - INTEGER_RANGES["int4"][0]
    if not (points == points.flatten()[0]).all():
        points = points.to(torch.uint8 if table.dtype != "int8" else torch.int8)
        rows = emit.Sub(rows, emit.cast(_of_rows(emit, table, points, f"{table.zero_point.name}_rows", indices), scale.dtype))
    elif points.any():
        rows = emit.Sub(rows, float(points.flatten()[0]))
    return emit.Mul(rows, _of_rows(emit, table, scale, f"{table.scale.name}_rows", indices))


def _of_rows(emit: Emitter, table: Dequantized, values: Tensor, name: str, indices: ir.Value) -> ir.Value:
    """Scales or zero points as they go with the rows that are looked up."""
    if table.axis == 0:
        values = values.unsqueeze(1)
    held = emit.derived(table.integers, name, lambda: emit.stored(values, name))
    if table.axis is None or (table.axis == 1 and not table.block_size):
        return held
    found = emit.Gather(held, indices, axis=0)
    return emit.Unsqueeze(found, [-1]) if table.block_size else found


@translation(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
@translation(aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
def embedding_bag(
    emit: Emitter,
    weight: ir.Value,
    indices: ir.Value,
    offsets: ir.Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: ir.Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[ir.Value | None, ...]:
    """Sums, means or maxima (modes 0, 1, 2) of rows, by a matrix that says which row is in which bag."""
    if any(user.args[1] != 0 and user.users for user in emit.node.users):
        emit.unsupported("results of an embedding bag other than the bags are used")
    rows = embedding(emit, weight, indices)
    if per_sample_weights is not None:
        rows = emit.Mul(rows, emit.Unsqueeze(per_sample_weights, [1]))
    dtype = emit.dtype(weight)
    count, offsets = emit.shape(indices)[0], emit.cast(offsets, torch.int64)
    places = emit.Range(emit.size_scalar(0), emit.size_scalar(count), emit.size_scalar(1))
    starts = emit.Slice(offsets, [0], [-1], [0]) if include_last_offset else offsets
    ends = emit.Slice(offsets, [1], [2**63 - 1], [0])
    ends = ends if include_last_offset else emit.Concat(ends, emit.sizes([count]), axis=0)
    begun = emit.GreaterOrEqual(places, emit.Unsqueeze(starts, [1]))
    inside = emit.And(begun, emit.Less(places, emit.Unsqueeze(ends, [1])))
    if padding_idx is not None and padding_idx >= 0:
        inside = emit.And(inside, emit.Not(emit.Equal(indices, padding_idx)))
    members = emit.cast(inside, dtype)
    counts = emit.ReduceSum(members, [1], keepdims=1)
    if mode == 2:
        lowest = emit.constant(torch.tensor(torch.finfo(dtype).min, dtype=dtype))
        shown = emit.Where(emit.Unsqueeze(inside, [2]), emit.Unsqueeze(rows, [0]), lowest)
        none = emit.constant(torch.zeros((), dtype=dtype))
        return emit.Where(emit.Greater(counts, 0.0), emit.ReduceMax(shown, [1], keepdims=0), none), None, None, None
    bags = emit.MatMul(members, rows)
    return bags if mode == 0 else emit.Div(bags, emit.Max(counts, 1.0)), None, None, None
