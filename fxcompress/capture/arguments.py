"""The one form of a call's arguments.

As many as possible by position, those at the end that equal the schema's default left out, per-dimension lists of full
length (`[2, 2]`, never `[2]`), dimensions counted from the front (but -1 for the last one of a softmax).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.ir.signature import names_dimensions, rank, same_dimensions

aten = torch.ops.aten

_FROM_THE_BACK = {aten.softmax.int, aten.log_softmax.int}
# Written by torch according to the machine it runs on; they choose a kernel, not a result.
_MACHINE = {"cudnn_enable", "cudnn_enabled"}
_ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar, aten.clamp.default}


@dataclass(frozen=True)
class _Parameter:
    name: str
    default: Any
    required: bool
    keyword_only: bool
    length: int | None
    """The number of spatial dimensions that a list argument covers."""
    kind: str


@cache
def _parameters(target: OpOverload) -> tuple[_Parameter, ...]:
    return tuple(
        _Parameter(a.name, a.default_value, not a.has_default_value(), a.kwarg_only, a.N, str(a.type))
        for a in target._schema.arguments
    )


def arrange(node: fx.Node) -> None:
    """Give the arguments of `node` their one form."""
    if not isinstance(node.target, OpOverload):
        return
    parameters = _parameters(node.target)
    given = {**dict(zip((p.name for p in parameters), node.args)), **node.kwargs}
    values = {p.name: _one_form(node, p, given[p.name]) for p in parameters if p.name in given}
    positional = [p for p in parameters if not p.keyword_only]
    while positional and _is_default(node, positional[-1], values.get(positional[-1].name, positional[-1].default)):
        positional.pop()
    args = tuple(values.get(p.name, p.default) for p in positional)
    kwargs = {
        p.name: values[p.name]
        for p in parameters
        if p.keyword_only and p.name in values and not _is_default(node, p, values[p.name])
    }
    if args != node.args or kwargs != node.kwargs or [type(a) for a in args] != [type(a) for a in node.args]:
        node.args, node.kwargs = args, kwargs


def _one_form(node: fx.Node, parameter: _Parameter, value: Any) -> Any:
    if parameter.name in _MACHINE:
        return True
    dimensions = rank(node)
    if dimensions and names_dimensions(node.target, parameter.name) and parameter.kind != "Tensor":
        return _dimension(node.target, value, dimensions)
    if isinstance(value, int) and not isinstance(value, bool):
        if parameter.length and "List" in parameter.kind:
            return [value] * parameter.length
        if node.target in _ARITHMETIC and _is_floating(node.meta.get("val")):
            return float(value)
    if isinstance(value, (list, tuple)):
        return list(value) * parameter.length if parameter.length and len(value) == 1 else list(value)
    return value


def _dimension(target: Any, value: Any, rank: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_dimension(target, v, rank) for v in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    front = value % rank
    return -1 if target in _FROM_THE_BACK and front == rank - 1 else front


def _is_default(node: fx.Node, parameter: _Parameter, value: Any) -> bool:
    if parameter.required or isinstance(value, fx.Node):
        return False
    default = parameter.default
    if names_dimensions(node.target, parameter.name) and isinstance(default, int) and isinstance(value, int):
        return same_dimensions(node, value, default)
    if value is None or default is None or isinstance(default, (bool, str)) or isinstance(value, (bool, str)):
        return type(value) is type(default) and value == default
    if isinstance(value, (list, tuple)) and isinstance(default, (int, float)):
        return bool(value) and all(type(v) is not fx.Node and v == default for v in value)
    return value == default


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point
