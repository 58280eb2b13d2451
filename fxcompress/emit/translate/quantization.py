"""The quantize and dequantize of a lowered graph, and the integer initializers behind them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch

from fxcompress.emit.deferred import Deferred
from fxcompress.emit.translation import Emitter, translation
from fxcompress.quantizers.ops import DEQUANTIZE, QUANTIZE, STORAGE, UNPACK, pack, unpack

_TYPES = {
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "int32": ir.DataType.INT32,
}


@translation(QUANTIZE)
def quantize(
    emit: Emitter, x: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int | None, dtype: str, block_size: int = 0
) -> ir.Value:
    if dtype == "int32":
        emit.unsupported("QuantizeLinear has no int32 result: store int32 values as a constant instead")
    grid = _scale(emit, scale, axis), _zero_point(emit, zero_point, axis, dtype)
    result = emit.QuantizeLinear(x, *grid, **_attributes(emit, axis, block_size))
    result.dtype = _TYPES[dtype]
    return result


@translation(UNPACK)
def unpacked(emit: Emitter, packed: ir.Value, shape: list[int], dtype: str) -> ir.Value:
    data = emit.data(packed)
    if data is None:
        emit.unsupported("the packed integers are not a constant")
    return emit.deferred(lambda: unpack(data, shape, dtype), shape, packed.name or "integers")


@dataclass(frozen=True)
class Dequantized:
    """A constant of integers and their grid: what a dequantize of it was called with."""

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    axis: int | None
    dtype: str
    block_size: int
    widened: bool = False


def dequantized(value: ir.Value) -> Dequantized | None:
    """The integers that `value` stands for, if it is a dequantized constant."""
    return value.meta.get("dequantized")


@translation(DEQUANTIZE)
def dequantize(
    emit: Emitter,
    q: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value,
    axis: int | None,
    dtype: str,
    block_size: int = 0,
    widened: bool = False,
) -> ir.Value:
    if q.const_value is None:
        return _dequantize(emit, q, scale, zero_point, axis, dtype, block_size)
    padding = 0
    if axis is not None and block_size:
        (size,) = emit.static(q, axis)
        block_size = min(block_size, size)
        padding = -size % block_size  # OpenVINO takes whole blocks only
    integers = emit.derived(q, (dtype, axis, padding), lambda: _integers(emit, q, dtype, axis, padding))
    if widened:
        result = emit.DequantizeLinear(_widened(emit, integers, zero_point, axis), _scale(emit, scale, axis), axis=axis)
        result.dtype = scale.dtype
    else:
        result = _dequantize(emit, integers, scale, zero_point, axis, dtype, block_size)
    if padding:
        result = emit.Slice(result, [0], [size], [axis])
    result.meta["dequantized"] = Dequantized(q, scale, zero_point, axis, dtype, block_size, widened)
    return result


def _widened(emit: Emitter, integers: ir.Value, zero_point: ir.Value, axis: int | None) -> ir.Value:
    """4-bit integers as 8-bit ones, relative to their zero point."""
    wide, points = emit.Cast(integers, to=int(ir.DataType.INT8)), emit.data(zero_point)
    if points is None:
        emit.unsupported("the zero point is not a constant")
    if not points.any():
        return wide
    rank = len(integers.shape or ())
    along = (
        points.reshape([-1 if axis is not None and d == axis % rank else 1 for d in range(rank)]) if points.dim() else points
    )
    return emit.Sub(wide, emit.stored(along.to(torch.int8), f"{zero_point.name}_int8"))


def _dequantize(
    emit: Emitter, q: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int | None, dtype: str, block_size: int
) -> ir.Value:
    values = emit.data(zero_point)
    grid: tuple[ir.Value, ...] = (_scale(emit, scale, axis),)
    if values is None or values.any():
        if dtype == "int32":
            emit.unsupported("an int32 value can be dequantized only with a constant zero point of 0")
        grid = (*grid, _zero_point(emit, zero_point, axis, dtype))
    elif dtype not in ("int32", "int4"):  # OpenVINO multiplies by INT4 quickly only where no zeros are subtracted from it
        grid = (*grid, _zero_point(emit, zero_point, axis, dtype))
    result = emit.DequantizeLinear(q, *grid, **_attributes(emit, axis, block_size))
    result.dtype = grid[0].dtype
    return result


def dequantize_transposed(emit: Emitter, matrix: Dequantized) -> ir.Value:
    """Another dequantize of `matrix`, its integers transposed in the file."""
    axis = None if matrix.axis is None else 1 - matrix.axis % 2
    integers, scale, zero_point = (_transposed(emit, v) for v in (matrix.integers, matrix.scale, matrix.zero_point))
    return dequantize(emit, integers, scale, zero_point, axis, matrix.dtype, matrix.block_size, matrix.widened)


def _transposed(emit: Emitter, value: ir.Value) -> ir.Value:
    held, name = value.const_value, f"{value.name}_transposed"
    if held is None or len(held.shape) < 2:
        return value
    if isinstance(held, Deferred):
        shape = held.shape.numpy()[::-1]
        return emit.derived(value, "transposed", lambda: emit.deferred(lambda: held.values().t(), shape, name))
    data = emit.data(value)
    assert data is not None
    return emit.stored(data.t(), name)


def _integers(emit: Emitter, q: ir.Value, dtype: str, axis: int | None, padding: int) -> ir.Value:
    """The constant `q` as the file holds it, with `padding` zeros behind it along `axis`."""
    held, name = q.const_value, q.name or "integers"

    def padded() -> torch.Tensor:
        data = emit.data(q)
        assert data is not None
        if padding and axis is not None:
            data = torch.cat([data, torch.zeros_like(data.narrow(axis, 0, 1)).repeat_interleave(padding, axis)], axis)
        return data

    if not isinstance(held, Deferred):
        return _stored(emit, padded(), name, dtype)
    emit.require_opset(21)
    shape = list(held.shape.numpy())
    if axis is not None:
        shape[axis] += padding
    packed = ir.LazyTensor(lambda: _packed(padded(), _TYPES[dtype]), _TYPES[dtype], ir.Shape(shape), name=name)
    return emit.initializer(packed, name)


def _attributes(emit: Emitter, axis: int | None, block_size: int) -> dict[str, int | None]:
    if block_size:
        emit.require_opset(21)
    return {"axis": axis, "block_size": block_size or None}


def _scale(emit: Emitter, scale: ir.Value, axis: int | None) -> ir.Value:
    data = emit.data(scale)
    if data is None or axis is not None or data.dim() == 0:
        return scale
    return emit.derived(scale, "scalar", lambda: emit.stored(data.reshape(()), scale.name or "scale"))


def _zero_point(emit: Emitter, zero_point: ir.Value, axis: int | None, dtype: str) -> ir.Value:
    """The zero point in the integers' own type, which is how ONNX tells that type."""
    data = emit.data(zero_point)
    if data is None:
        emit.unsupported("the zero point is not a constant")
    name = zero_point.name or "zero_point"
    points = data.reshape(()) if axis is None else data
    return emit.derived(zero_point, (axis is None, dtype), lambda: _stored(emit, points, name, dtype))


def _stored(emit: Emitter, data: torch.Tensor, name: str, dtype: str) -> ir.Value:
    if dtype in ("int4", "uint4"):
        emit.require_opset(21)
        return emit.initializer(_packed(data, _TYPES[dtype]), name)
    same_type = data.dtype == STORAGE[dtype]
    if data.numel() == 1 and not same_type:
        return emit.constant(data.to(STORAGE[dtype]))
    return emit.stored(data if same_type else data.to(STORAGE[dtype]), name)


def _packed(data: torch.Tensor, kind: ir.DataType) -> ir.TensorProtocol:
    """Two 4-bit integers a byte, the first in the low half, as ONNX packs them."""
    return ir.PackedTensor(pack(data.detach().cpu()).numpy(), kind, shape=tuple(data.shape))
