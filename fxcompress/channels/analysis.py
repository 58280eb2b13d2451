"""Which channels of a graph depend on each other: its nodes one after the other, each by the rule of its operation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.channels.call import Call, rule_of
from fxcompress.channels.dependencies import Channels
from fxcompress.channels.elements import Ids
from fxcompress.channels.narrowable import Narrowable
from fxcompress.channels.products import Parts
from fxcompress.errors import describe
from fxcompress.ir.constants import interior, is_computed, is_constant, key_of
from fxcompress.ir.dialect import SCALAR_FUNCTIONS
from fxcompress.ir.signature import operation


def analyze(
    graph_module: fx.GraphModule, keep: Callable[[Channels], None] | None = None, parts: Parts | None = None
) -> Channels:
    """The channel dependencies of `graph_module`.

    Args:
        keep: pins what must stay for reasons of its own, before it is decided which part of a split axis may lose indices.
        parts: what was decided on that in an analysis before (see `Products.resolve`).
    """
    channels, constants = Channels(graph_module), dict[str, list[Ids | None]]()
    inside = interior(graph_module.graph)
    for node in graph_module.graph.nodes:
        if is_constant(node):  # the same ones wherever the graph reads a constant
            channels.axes[node] = constants.setdefault(key_of(node), _constant(channels, node))
            if any(reader in inside or is_computed(reader) for reader in node.users):
                channels.pin_all(channels.axes[node], "weights are computed from them")
        elif node in inside:
            channels.axes[node] = channels.fixed(node.meta.get("val"), "it is on the way to a weight that is computed")
        elif node.op == "output":
            for source in node.all_input_nodes:
                channels.pin_all(channels.axes[source], "they are outputs of the model")
        else:
            channels.axes[node] = _computed(channels, node)
    if keep is not None:
        keep(channels)
    channels.products.resolve(parts)
    return channels


def _constant(channels: Channels, node: fx.Node) -> list[Ids | None]:
    value = node.meta.get("val")
    sizes = value.shape if isinstance(value, Tensor) else ()
    return [channels.elements.fresh(size) if size > 1 else None for size in sizes]


def _computed(channels: Channels, node: fx.Node) -> Any:
    """The axes of an input or of what a call gives."""
    if node.op == "placeholder":
        return channels.fixed(node.meta.get("val"), "they are inputs of the model")
    if node.target is operator.getitem:
        return channels.axes[node.args[0]][node.args[1]]  # type: ignore[index]
    if node.op == "call_module" and isinstance(channels.graph_module.get_submodule(str(node.target)), Narrowable):
        return channels.of(node.args[0])  # type: ignore[arg-type]
    if node.target in SCALAR_FUNCTIONS:
        return []
    known = _by_rule(channels, node) if isinstance(node.target, OpOverload) else None
    return _unknown(channels, node) if known is None else known


def _by_rule(channels: Channels, node: fx.Node) -> Any:
    """The axes of the results by the rule of the operation; None where there is none, or it does not fit."""
    call = Call(channels, node)
    if not call.operands:
        return channels.fixed(node.meta.get("val"), f"{describe(node)} has a fixed size")
    rule = rule_of(node.target)  # type: ignore[arg-type]
    return None if rule is None else call.finish(rule(call))


def _unknown(channels: Channels, node: fx.Node) -> Any:
    reason = f"what {operation(node)} does to channels is not known: {describe(node)}"
    for source in node.all_input_nodes:
        channels.pin_all(channels.axes[source], reason)
    return channels.fixed(node.meta.get("val"), reason)
