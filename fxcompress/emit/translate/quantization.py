"""The quantize and dequantize of a lowered graph, and the integer initializers behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch

import fxcompress.quantization.ops  # noqa: F401 -- defines torch.ops.fxcompress
from fxcompress.emit.translation import Emitter, translation

_TYPES = {
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "int32": ir.DataType.INT32,
}
_STORAGE = {"int8": torch.int8, "uint8": torch.uint8, "int4": torch.int8, "uint4": torch.uint8, "int32": torch.int32}


@translation(torch.ops.fxcompress.quantize.default)
def quantize(
    emit: Emitter, x: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int | None, dtype: str, block_size: int = 0
) -> ir.Value:
    if dtype == "int32":
        emit.unsupported("QuantizeLinear has no int32 result: store int32 values as a constant instead")
    grid = _scale(emit, scale, axis), _zero_point(emit, zero_point, axis, dtype)
    result = emit.QuantizeLinear(x, *grid, **_attributes(axis, block_size))
    result.dtype = _TYPES[dtype]
    return result


@translation(torch.ops.fxcompress.dequantize.default)
def dequantize(
    emit: Emitter, q: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int | None, dtype: str, block_size: int = 0
) -> ir.Value:
    data = emit.data(q)
    integers = q if data is None else _stored(emit, data, q.name or "integers", dtype)
    if dtype == "int32":
        values = emit.data(zero_point)
        if values is None or bool(values.any()):
            emit.unsupported("an int32 value can be dequantized only with a constant zero point of 0")
        grid = (_scale(emit, scale, axis),)  # type: tuple[ir.Value, ...]
    else:
        grid = _scale(emit, scale, axis), _zero_point(emit, zero_point, axis, dtype)
    result = emit.DequantizeLinear(integers, *grid, **_attributes(axis, block_size))
    result.dtype = grid[0].dtype
    return result


def dequantize_as(
    emit: Emitter,
    node: ir.Node,
    change: Callable[[torch.Tensor], torch.Tensor],
    axes: Mapping[int, int],
) -> ir.Value:
    """Another dequantize of the constant that `node` dequantizes, its integers rearranged in the file.

    Args:
        node: a DequantizeLinear whose first input is an initializer.
        change: rearranges the integers (and scales and zero points in blocks, which have as many dimensions).
        axes: where each axis goes.
    """
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    changed: list[ir.Value] = []
    for value in filter(None, node.inputs):
        data, kind, name = _integers(value), value.dtype, f"{value.name}_transposed"
        if data.dim() < 2:
            changed.append(value)
        elif kind is not None and kind in (ir.DataType.INT4, ir.DataType.UINT4):
            changed.append(emit.initializer(_packed(change(data), kind), name))
        else:
            changed.append(emit.stored(change(data), name))
    if "axis" in attributes:
        attributes["axis"] = axes[attributes["axis"]]
    result = emit.DequantizeLinear(*changed, **attributes)
    result.dtype = changed[1].dtype
    return result


def _attributes(axis: int | None, block_size: int) -> dict[str, int | None]:
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
        return emit.initializer(_packed(data, _TYPES[dtype]), name)
    same_type = data.dtype == _STORAGE[dtype]
    if data.numel() == 1 and not same_type:
        return emit.constant(data.to(_STORAGE[dtype]))
    return emit.stored(data if same_type else data.to(_STORAGE[dtype]), name)


def _packed(data: torch.Tensor, kind: ir.DataType) -> ir.TensorProtocol:
    """Two 4-bit integers a byte, the first in the low half, as ONNX packs them."""
    nibbles = data.detach().cpu().contiguous().numpy().astype(np.uint8).reshape(-1) & 0xF
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return ir.PackedTensor(nibbles[0::2] | (nibbles[1::2] << 4), kind, shape=tuple(data.shape))


def _integers(value: ir.Value) -> torch.Tensor:
    """The constant behind `value`, 4-bit integers one a byte."""
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        storage = np.int8 if tensor.dtype == ir.DataType.INT4 else np.uint8
        return torch.from_numpy(tensor.numpy().astype(storage))
    return tensor.raw  # type: ignore[attr-defined]
