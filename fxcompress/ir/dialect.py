"""The one dialect that every pass reads and writes: functional ATen calls, each with a single spelling.

A graph in the dialect holds `placeholder`, `get_attr`, `output`, `call_function` of functional ATen overloads (plus
`operator.getitem` and integer arithmetic on symbolic sizes), and `call_module` only for modules that a pass inserted.
Capture erases all other spellings (see `fxcompress.capture.canonical`), so a pattern needs to know one name per operation.
"""

from __future__ import annotations

import contextlib
import copy
import math
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from fxcompress.errors import DialectError, describe
from fxcompress.ir.training_ops import DROP_PATH, STOP_GRADIENT

aten = torch.ops.aten

# Names whose dialect spelling is not the overload called "default". Everything else resolves to "default",
# or to the packet's only functional overload.
_OVERLOADS: dict[str, OpOverload] = {
    "add": aten.add.Tensor,
    "sub": aten.sub.Tensor,
    "rsub": aten.rsub.Scalar,
    "mul": aten.mul.Tensor,
    "div": aten.div.Tensor,
    "pow": aten.pow.Tensor_Scalar,
    "eq": aten.eq.Tensor,
    "ne": aten.ne.Tensor,
    "lt": aten.lt.Tensor,
    "le": aten.le.Tensor,
    "gt": aten.gt.Tensor,
    "ge": aten.ge.Tensor,
    "where": aten.where.self,
    "masked_fill": aten.masked_fill.Scalar,
    "mean": aten.mean.dim,
    "sum": aten.sum.dim_IntList,
    "amax": aten.amax.default,
    "var": aten.var.correction,
    "softmax": aten.softmax.int,
    "log_softmax": aten.log_softmax.int,
    "transpose": aten.transpose.int,
    "flatten": aten.flatten.using_ints,
    "unflatten": aten.unflatten.int,
    "squeeze": aten.squeeze.dims,
    "slice": aten.slice.Tensor,
    "select": aten.select.int,
    "split": aten.split.Tensor,
    "index": aten.index.Tensor,
    "conv_transpose2d": aten.conv_transpose2d.input,
    "drop_path": DROP_PATH,
    "stop_gradient": STOP_GRADIENT,
    "conv_transpose3d": aten.conv_transpose3d.input,
    "upsample_nearest2d": aten.upsample_nearest2d.vec,
    "upsample_bilinear2d": aten.upsample_bilinear2d.vec,
    "upsample_bicubic2d": aten.upsample_bicubic2d.vec,
    "linalg_vector_norm": aten.linalg_vector_norm.default,
}

NUMBER_READS = frozenset({aten.item.default, aten._local_scalar_dense.default})
"""Calls that give a number out of a tensor."""

COMMUTATIVE: frozenset[OpOverload] = frozenset(
    {aten.add.Tensor, aten.mul.Tensor, aten.maximum.default, aten.minimum.default}
    | {aten.logical_and.default, aten.logical_or.default, aten.eq.Tensor, aten.ne.Tensor}
)
"""Operations whose first two operands may be swapped (`add` only while its `alpha` is 1)."""

# Functions on symbolic sizes (SymInt, SymBool) and tuples that torch.export leaves beside the ATen calls.
SCALAR_FUNCTIONS: frozenset[Any] = frozenset(
    {operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg}
    | {operator.truediv, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.pow}
    | {round, math.ceil, math.floor, math.trunc, torch.sym_int, torch.sym_float, torch.sym_max, torch.sym_min, torch.sym_not}
    | {aten.sym_size.int}
)


def resolve(name: str) -> OpOverload:
    """The overload that the dialect uses for the ATen operation `name`, or ``"name.overload"`` for an explicit one.

    Raises:
        DialectError: no such ATen operation.
    """
    if name in _OVERLOADS:
        return _OVERLOADS[name]
    packet_name, _, overload = name.partition(".")
    packet = getattr(aten, packet_name, None)
    if not isinstance(packet, OpOverloadPacket):
        raise DialectError(f"there is no ATen operation called {packet_name!r}; see torch.ops.aten for the names")
    if overload or "default" in packet.overloads():
        return getattr(packet, overload or "default")
    functional = [o for o in packet.overloads() if not o.endswith("out")]
    if len(functional) != 1:
        one = f"{packet_name}.{functional[0]}"
        raise DialectError(f"aten.{packet_name} has several overloads {functional}; name one, as {one!r}")
    return getattr(packet, functional[0])


_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "drop_path")
IDLE = tuple(map(resolve, (*_DROPOUTS, "stop_gradient")))
"""What does nothing outside training."""


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of `graph`: the same nodes and metadata, the same calling convention."""
    with copying():
        return copy.deepcopy(graph)


@contextlib.contextmanager
def copying() -> Iterator[None]:
    """While torch copies its own classes, what it says of how it does so reaches nobody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        yield


def check(graph_module: fx.GraphModule) -> None:
    """Raise `DialectError`, naming the node and its source line, where `graph_module` is outside the dialect.

    Modules that a pass inserted are those whose node carries ``meta["created_by"]``.
    """
    for node in graph_module.graph.nodes:
        problem = _problem(node)
        if problem:
            raise DialectError(f"{problem}: {describe(node)}")


def _problem(node: fx.Node) -> str | None:
    if node.op == "call_method":
        return f"call_method {node.target!r} is not in the dialect; call the ATen function instead"
    if node.op == "call_module" and "created_by" not in node.meta:
        return f"module call {node.target!r} was not inserted by a pass"
    if node.op != "call_function" or node.target in SCALAR_FUNCTIONS:
        return None
    if not isinstance(node.target, OpOverload):
        return f"{node.target} is not an ATen overload"
    if node.target._schema.is_mutable:
        return f"in-place {node.target} is not in the dialect"
    return None
