"""Comparisons, logic and choices."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translate.arithmetic import as_value
from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.types import number

aten = torch.ops.aten

_COMPARISONS = {
    "Equal": aten.eq,
    "Less": aten.lt,
    "LessOrEqual": aten.le,
    "Greater": aten.gt,
    "GreaterOrEqual": aten.ge,
}


def _comparable(emit: Emitter, x: ir.Value, other: Any) -> tuple[Any, Any]:
    a, b = emit.promote(x, other)
    if emit.common_dtype(x, other) == torch.bool and emit.node.target not in _EQUALITIES:
        return emit.cast(a, torch.int32), emit.cast(as_value(emit, b, a), torch.int32)
    return a, b


_EQUALITIES = {aten.eq.Tensor, aten.eq.Scalar, aten.ne.Tensor, aten.ne.Scalar}


def _register_comparison(op_type: str, packet: Any) -> None:
    @translation(packet.Tensor, packet.Scalar)
    def compare(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
        return emit.op(op_type, *_comparable(emit, x, other))


for _op_type, _target in _COMPARISONS.items():
    _register_comparison(_op_type, _target)


@translation(aten.ne.Tensor, aten.ne.Scalar)
def ne(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    return emit.Not(emit.Equal(*_comparable(emit, x, other)))


def _truth(emit: Emitter, x: Any) -> ir.Value:
    return emit.cast(x, torch.bool)


@translation(aten.logical_not.default)
def logical_not(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Not(_truth(emit, x))


@translation(aten.bitwise_not.default)
def bitwise_not(emit: Emitter, x: ir.Value) -> ir.Value:
    return emit.Not(x) if emit.dtype(x) == torch.bool else emit.BitwiseNot(x)


def _register_logic(name: str, logical: Any, bitwise: tuple[Any, ...]) -> None:
    @translation(logical)
    def logic(emit: Emitter, x: ir.Value, other: ir.Value) -> ir.Value:
        return emit.op(name, _truth(emit, x), _truth(emit, other))

    @translation(*bitwise)
    def bits(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
        a, b = emit.promote(x, other)
        return emit.op(name if emit.result.dtype == torch.bool else f"Bitwise{name}", a, b)


def _overloads(*packets: Any) -> tuple[Any, ...]:
    return tuple(overload for packet in packets for overload in (packet.Tensor, packet.Scalar))


_register_logic("And", aten.logical_and.default, _overloads(aten.bitwise_and, aten.__and__))
_register_logic("Or", aten.logical_or.default, _overloads(aten.bitwise_or, aten.__or__))
_register_logic("Xor", aten.logical_xor.default, _overloads(aten.bitwise_xor, aten.__xor__))


@translation(*_overloads(aten.__rshift__), *(getattr(aten.bitwise_right_shift, one) for one in ("Tensor", "Tensor_Scalar")))
def shift_right(emit: Emitter, x: ir.Value, other: Any) -> ir.Value:
    """Of a number below zero the complement is shifted: ONNX has it of unsigned numbers alone, to which OpenVINO clips.

    In no fewer than 32 bits, since OpenVINO rounds bytes that it shifts.
    """
    a, b = emit.promote(x, other)
    signed, unsigned = _SHIFTED_IN[emit.dtype(a) == torch.int64]
    a, by = emit.cast(a, signed), emit.cast(as_value(emit, b, a), unsigned)
    below = emit.Less(a, number(0, signed))
    shifted = emit.cast(
        emit.BitShift(emit.cast(emit.Where(below, emit.BitwiseNot(a), a), unsigned), by, direction="RIGHT"), signed
    )
    return emit.cast(emit.Where(below, emit.BitwiseNot(shifted), shifted), emit.result.dtype)


_SHIFTED_IN = (torch.int32, torch.uint32), (torch.int64, torch.uint64)


@translation(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(emit: Emitter, condition: ir.Value, x: Any, other: Any) -> ir.Value:
    dtype = emit.result.dtype
    a, b = (emit.cast(o, dtype) if isinstance(o, ir.Value) else emit.constant(torch.tensor(o, dtype=dtype)) for o in (x, other))
    return emit.Where(_truth(emit, condition), a, b)


@translation(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(emit: Emitter, x: ir.Value, mask: ir.Value, value: Any) -> ir.Value:
    return where(emit, mask, value, x)
