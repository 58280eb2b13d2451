"""Numbers that a model reads out of its own tensors, such as a stride kept in a buffer, are constants of the graph."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.capture.functionalize import is_in_place
from fxcompress.errors import source_line
from fxcompress.ir.dialect import NUMBER_READS
from fxcompress.ir.reach import reached


def freeze_numbers(module: fx.GraphModule, notes: list[str]) -> None:
    """Replace each number read from parameters, buffers and constants alone by itself; `notes` says so of the first two."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in NUMBER_READS:
            continue
        tensor = _evaluated(node.args[0], module, known)
        if not isinstance(tensor, Tensor):
            continue
        number, name = tensor.item(), _state(node.args[0], module)
        if name is not None:
            note = f"the number {number} that the model reads from {name!r} is a constant of the graph"
            notes.append(f"{note}: {source_line(node)}")
        _replace(node, number)


def _replace(node: fx.Node, number: Any) -> None:
    symbol = node.meta.get("val")
    if isinstance(symbol, torch.SymInt | torch.SymFloat) and isinstance(symbol.node.expr, sympy.Symbol):
        value = sympy.Integer(number) if isinstance(number, int) else sympy.Float(number)
        symbol.node.shape_env._set_replacement(symbol.node.expr, value, "read from the model's own tensors")
    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), lambda n: number if n is node else n)  # type: ignore[misc, assignment]
    node.graph.erase_node(node)


def _evaluated(node: Any, module: fx.GraphModule, known: dict[fx.Node, Any]) -> Any:
    """The value of `node`; None where it depends on an input, on chance, or on what is written in place."""
    if not isinstance(node, fx.Node):
        return node
    new = set(reached([node], lambda one: one.all_input_nodes if one not in known else ()))
    for one in [one for one in node.graph.nodes if one in new]:
        known.setdefault(one, _computed(one, module, known))
    return known[node]


def _computed(node: fx.Node, module: fx.GraphModule, known: dict[fx.Node, Any]) -> Any:
    """The value of `node` where those of its inputs are `known`."""
    if any(is_in_place(user) and user.args[0] is node for user in node.users):
        return None
    if node.op == "get_attr":
        found = operator.attrgetter(str(node.target))(module)
        return found.detach() if isinstance(found, Tensor) else None
    if node.op != "call_function" or not isinstance(node.target, OpOverload) or is_in_place(node):
        return None
    sources = node.all_input_nodes
    if not sources or any(known[source] is None for source in sources) or torch.Tag.nondeterministic_seeded in node.target.tags:
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)  # type: ignore[misc]
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _state(node: Any, module: fx.GraphModule) -> str | None:
    """The first parameter or buffer that `node` depends on."""
    state = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    read = (str(one.target) for one in reached([node], lambda one: one.all_input_nodes) if one.op == "get_attr")
    return next((name for name in read if name in state), None)
