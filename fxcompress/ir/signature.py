"""The arguments of a call by the names of its operator's schema, however the call spells them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload


class _Required:
    """Stands where a parameter has no default."""

    def __repr__(self) -> str:
        return "(required)"


REQUIRED: Any = _Required()

RELATIVE_TOLERANCE = 1e-6
"""How closely two literal floats agree that are taken for the same number."""


@dataclass(frozen=True)
class Signature:
    """The parameters of one call target, in order: their names and their defaults (`REQUIRED` where there is none).

    `keyword_only` is the number of parameters, at the end, that take no position.
    """

    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    keyword_only: int = 0

    @property
    def positional(self) -> int:
        """The number of parameters that can be given by position."""
        return len(self.names) - self.keyword_only


@cache
def signature(target: Callable) -> Signature:
    """The signature of `target`, an ATen overload or a plain function such as `operator.getitem`."""
    if not isinstance(target, OpOverload):
        names = tuple(inspect.signature(target).parameters)
        return Signature(names, (REQUIRED,) * len(names))
    parameters = target._schema.arguments
    return Signature(
        names=tuple(p.name for p in parameters),
        defaults=tuple(p.default_value if p.has_default_value() else REQUIRED for p in parameters),
        keyword_only=sum(p.kwarg_only for p in parameters),
    )


def arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of the call `node` by its schema name, defaults filled in."""
    declared = signature(node.target)  # type: ignore[arg-type]
    values = dict(zip(declared.names, declared.defaults))
    values.update(zip(declared.names, node.args))
    values.update(node.kwargs)
    return values


def argument(node: fx.Node, name: str) -> Any:
    """The argument `name` of the call `node`, or its schema default where the call leaves it out."""
    return arguments(node)[name]


def same_value(left: Any, right: Any) -> bool:
    """Whether two arguments are the same value: one node, one attribute, or equal literals.

    Numbers agree within `RELATIVE_TOLERANCE`; a truth value equals no number; lists and tuples agree item by item, and
    a number agrees with a list that holds nothing else (a stride of 2 and a stride of [2, 2]).
    """
    if left is right:
        return True
    if isinstance(left, fx.Node) or isinstance(right, fx.Node):
        return _same_attribute(left, right)
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return False
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, (list, tuple)) and isinstance(right, (int, float)):
        return bool(left) and all(same_value(item, right) for item in left)
    if isinstance(right, (list, tuple)) and isinstance(left, (int, float)):
        return same_value(right, left)
    return type(left) is type(right) and left == right


_DIMENSIONS = frozenset({"dim", "dims", "dim0", "dim1", "dim2", "start_dim", "end_dim"})
_OTHERWISE = frozenset(
    {torch.ops.aten.tile.default}  # its `dims` are numbers of copies
    | {torch.ops.aten._weight_norm.default, torch.ops.aten.norm_except_dim.default}  # -1 is no dimension
)
# Their dimensions are those of the result, which has one more than the input.
_ONE_MORE = frozenset(
    {torch.ops.aten.unsqueeze.default, torch.ops.aten.unsqueeze_copy.default}
    | {torch.ops.aten.stack.default, torch.ops.aten.diag_embed.default}
)


def names_dimensions(target: Callable, parameter: str) -> bool:
    """Whether `parameter` of `target` names dimensions, which count from the front or, below zero, from the back."""
    return parameter in _DIMENSIONS and target not in _OTHERWISE


def rank(node: fx.Node) -> int | None:
    """How many dimensions a dimension argument of the call `node` counts over; None where that is not known."""
    first = next(iter((*node.args, *node.kwargs.values())), None)
    inputs = first if isinstance(first, (list, tuple)) else [first]
    values = [source.meta.get("val") for source in inputs if isinstance(source, fx.Node)]
    ranks = [value.dim() for value in values if isinstance(value, torch.Tensor)]
    return max(ranks) + (node.target in _ONE_MORE) if ranks else None


def same_dimensions(node: fx.Node, left: Any, right: Any) -> bool:
    """Whether `left` and `right` are the same dimension, or list of dimensions, of the call `node`."""
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(same_dimensions(node, a, b) for a, b in zip(left, right))
    if same_value(left, right) or not isinstance(left, int) or not isinstance(right, int):
        return same_value(left, right)
    dimensions = rank(node)
    return dimensions is not None and dimensions > 0 and left % dimensions == right % dimensions


def _same_attribute(left: Any, right: Any) -> bool:
    return (
        isinstance(left, fx.Node)
        and isinstance(right, fx.Node)
        and left.op == right.op == "get_attr"
        and left.target == right.target
    )


def operation(node: fx.Node) -> str:
    """The name of the operation that `node` calls, whatever its overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet else getattr(node.target, "__name__", str(node.target))
