"""One spelling for each operation: `canonicalize` rewrites a captured graph so that a pattern needs one name.

Besides the names (the table in `spellings`), the arguments have one form: as many as possible by position, those at the
end that equal the schema's default left out, per-dimension lists of full length (`[2, 2]`, never `[2]`), dimensions
counted from the front (but -1 for the last one of a softmax).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.capture.fake import insert_call, static_sizes

aten = torch.ops.aten

_DIMENSIONS = {"dim", "dims", "dim0", "dim1", "start_dim", "end_dim"}
_FROM_THE_BACK = {aten.softmax.int, aten.log_softmax.int}
_NEW_AXIS = {aten.unsqueeze.default, aten.stack.default}
# Written by torch according to the machine it runs on; they choose a kernel, not a result.
_MACHINE = {"cudnn_enable", "cudnn_enabled"}
_ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar, aten.clamp.default}


def canonicalize(graph: fx.Graph) -> None:
    """Rewrite `graph`, which is functional and has ``meta["val"]`` on every node, to the dialect's spellings."""
    remove_unused(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.users:
            canonical_call(node)
    remove_unused(graph)


def remove_unused(graph: fx.Graph) -> None:
    """Erase every node but inputs and output whose value nobody reads: assertions, guards, sizes, parameters."""
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


def canonical_call(node: fx.Node) -> fx.Node:
    """The canonical form of the call `node`, which takes its place in the graph."""
    from fxcompress.capture.spellings import SPELLINGS

    while True:
        arrange(node)
        respell = SPELLINGS.get(node.target)
        new = respell(Call(node)) if respell else None
        if new is None:
            return node
        node.replace_all_uses_with(new, propagate_meta=False)
        node.graph.erase_node(node)
        if new.op != "call_function":
            return new
        node = new


@dataclass(frozen=True)
class Call:
    """A call to respell: its arguments by name, and ways to write another in its place."""

    node: fx.Node

    def __getitem__(self, name: str) -> Any:
        parameters = _parameters(self.node.target)
        for position, parameter in enumerate(parameters):
            if parameter.name == name:
                if position < len(self.node.args):
                    return self.node.args[position]
                return self.node.kwargs.get(name, parameter.default)
        raise KeyError(f"{self.node.target} has no parameter {name!r}")

    @property
    def value(self) -> Any:
        """The fake value of the call."""
        return self.node.meta["val"]

    def same(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `target` that gives what this one does."""
        return insert_call(self.node, target, args, kwargs, val=self.value)

    def new(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `target` for use by another one, in canonical form."""
        return canonical_call(insert_call(self.node, target, args, kwargs))

    def first(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node | None:
        """A call of `target` for the first of the results of this one; None, where others are read as well."""
        readers = list(self.node.users)
        if any(reader.target is not operator.getitem or reader.args[1] != 0 for reader in readers):
            return None
        new = insert_call(self.node, target, args, kwargs, val=self.value[0])
        for reader in readers:
            reader.replace_all_uses_with(new, propagate_meta=False)
            self.node.graph.erase_node(reader)
        return new


def size_of(value: Any) -> tuple[Any, ...]:
    """The shape behind a node or a fake tensor; sizes that depend on the batch are `torch.SymInt`."""
    return static_sizes((value.meta["val"] if isinstance(value, fx.Node) else value).shape)


def same_sizes(left: Any, right: Any) -> bool:
    """Whether two shapes are equal for every batch size, without guarding on it."""
    left, right = tuple(left), tuple(right)
    return len(left) == len(right) and all(same_size(a, b) for a, b in zip(left, right))


def same_size(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return str(left) == str(right)


# ------------------------------------------------------------------------------------------------------ arguments


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
    rank = _rank(node, given, parameters)
    values = {p.name: _one_form(node, p, given[p.name], rank) for p in parameters if p.name in given}
    positional = [p for p in parameters if not p.keyword_only]
    while positional and _is_default(positional[-1], values.get(positional[-1].name, positional[-1].default), rank):
        positional.pop()
    args = tuple(values.get(p.name, p.default) for p in positional)
    kwargs = {
        p.name: values[p.name]
        for p in parameters
        if p.keyword_only and p.name in values and not _is_default(p, values[p.name], rank)
    }
    if args != node.args or kwargs != node.kwargs or [type(a) for a in args] != [type(a) for a in node.args]:
        node.args, node.kwargs = args, kwargs


def _rank(node: fx.Node, given: dict[str, Any], parameters: tuple[_Parameter, ...]) -> int | None:
    """The number of dimensions that a dimension argument of `node` counts over."""
    first = given.get(parameters[0].name) if parameters else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    value = first.meta.get("val") if isinstance(first, fx.Node) else None
    if not isinstance(value, Tensor):
        return None
    return value.dim() + (node.target in _NEW_AXIS)


def _one_form(node: fx.Node, parameter: _Parameter, value: Any, rank: int | None) -> Any:
    if parameter.name in _MACHINE:
        return True
    if parameter.name in _DIMENSIONS and rank and parameter.kind != "Tensor":
        return _dimension(node.target, value, rank)
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


def _is_default(parameter: _Parameter, value: Any, rank: int | None) -> bool:
    if parameter.required or isinstance(value, fx.Node):
        return False
    default = parameter.default
    if parameter.name in _DIMENSIONS and isinstance(default, int) and isinstance(value, int) and rank:
        return value % rank == default % rank
    if value is None or default is None or isinstance(default, (bool, str)) or isinstance(value, (bool, str)):
        return type(value) is type(default) and value == default
    if isinstance(value, (list, tuple)) and isinstance(default, (int, float)):
        return bool(value) and all(type(v) is not fx.Node and v == default for v in value)
    return value == default


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point
