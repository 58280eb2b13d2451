"""A lowered graph for one batch size: what was computed from it is a constant in the file."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.errors import InputError, shown
from fxcompress.ir.dialect import copy_graph

MOST_ELEMENTS = 2**31
"""Of one input of a file."""


def fix_batch_size(graph_module: fx.GraphModule, batch_size: int | None) -> fx.GraphModule:
    """A copy of `graph_module` whose values have the shapes that they have at this batch size; itself, for None.

    The batch size is the first symbolic size of the first input, wherever it comes up.

    Raises:
        InputError: it is no number from 1 on, or the model has another one that is not free.
    """
    if batch_size is None:
        return graph_module
    check_batch_size(batch_size, graph_module.graph)
    shapes = (node.meta["val"].shape for node in graph_module.graph.find_nodes(op="placeholder") if _is_tensor(node))
    first = next((shape[0] for shape in shapes if len(shape)), None)
    if not isinstance(first, torch.SymInt):
        if first != batch_size:
            raise InputError(f"the model was compiled for a batch size of {first}; it cannot be written for {batch_size}")
        return graph_module
    found = first.node.expr
    (symbol,) = found.free_symbols
    solutions = [s for s in sympy.solve(found - batch_size, symbol) if s.is_Integer]
    if not solutions:
        raise InputError(f"the first size of the model's input is {found}, of a whole {symbol}; it cannot be {batch_size}")
    sizes = partial(_with_sizes, known={symbol: solutions[0]})
    fixed = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
    fixed.meta = dict(graph_module.meta)
    for node in fixed.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(sizes, node.meta["val"])
    return fixed


def check_batch_size(batch_size: Any, graph: fx.Graph | None = None) -> None:
    """Raise InputError where it is no number from 1 on, or an input of `graph` would have more elements than memory holds."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"a batch size is a number from 1 on, not {shown(batch_size)}")
    inputs = graph.find_nodes(op="placeholder") if graph is not None else ()
    shapes = [node.meta["val"].shape[1:] for node in inputs if _is_tensor(node)]
    largest = max((math.prod(size for size in shape if isinstance(size, int)) for shape in shapes), default=1)
    if batch_size * largest > MOST_ELEMENTS:
        raise InputError(f"a batch of {batch_size!r:.40} has more elements than fit into memory; give a smaller batch size")


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _with_sizes(value: Any, known: dict[Any, Any]) -> Any:
    """`value` with these symbols known, in its shape if it is a tensor."""
    if isinstance(value, Tensor):
        shape = [_with_sizes(size, known) for size in value.shape]
        return value if shape == list(value.shape) else value.new_empty(shape)
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value
    found = value.node.expr.xreplace(known)
    if not found.free_symbols:
        return {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(value)](found)
    if isinstance(value, torch.SymInt):
        return value.node.shape_env.create_symintnode(found, hint=None)
    if isinstance(value, torch.SymFloat):
        return value.node.shape_env.create_symfloatnode(found, hint=None)
    return value
