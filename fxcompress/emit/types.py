"""Types of values in an ONNX graph, as torch's dtypes give them."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import from_torch_dtype

_BOOLEAN = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"}
_INTEGER = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}


def number(value: Any, dtype: torch.dtype) -> Any:
    """A python number as an operand of a `dtype` computation; what is known at run time only as it is."""
    if isinstance(value, torch.SymInt | ir.Value) or value is None:
        return value
    if dtype.is_floating_point:
        return float(value)
    return bool(value) if dtype == torch.bool else math.trunc(value)


def onnx_type(dtype: torch.dtype) -> ir.DataType:
    """The ONNX type of the numbers of a tensor of `dtype`; ONNX has complex ones as pairs of real ones."""
    return from_torch_dtype(dtype.to_real() if dtype.is_complex else dtype)


def output_type(op_type: str, like: ir.DataType | None, attributes: dict[str, Any]) -> ir.DataType | None:
    """The type of what a node of `op_type` gives, whose first numeric input is of type `like`; None where that is not known."""
    if op_type in _BOOLEAN:
        return ir.DataType.BOOL
    if op_type in _INTEGER:
        return ir.DataType.INT64
    if op_type == "Cast":
        return ir.DataType(attributes["to"])
    return like


def attribute(name: str, value: Any) -> ir.Attr:
    """The attribute of a node that holds `value`; a list of whole numbers, as most are, is told at once."""
    if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
        return ir.AttrInt64s(name, value)
    return ir.convenience.convert_attribute(name, value)
