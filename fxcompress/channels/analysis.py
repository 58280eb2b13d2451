"""Channel dependencies: an identifier for each index of each axis, joined where operations tie channels together.

Every weight and every value has a list of identifiers for each of its axes that can lose indices. A convolution gives its
output the identifiers of its weight's first axis and joins those of its input with the second one; an addition joins its
operands'; a concatenation puts lists one behind the other. Where a reshape splits or merges axes, only one of the parts can
lose indices and still be a box of numbers: which one is decided at the end, when it is known what must stay.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.channels.call import Call, rule_of
from fxcompress.channels.elements import Elements, Ids
from fxcompress.channels.narrowable import Narrowable
from fxcompress.channels.products import Products
from fxcompress.errors import describe
from fxcompress.ir.dialect import SCALAR_FUNCTIONS
from fxcompress.ir.signature import operation
from fxcompress.masks.mask import source_constant


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation with filters.

    Attributes:
        node: the operation.
        weight: what holds the filters: a constant, maybe behind masks and quantizers.
        filters: the identifiers of the filters, along `axis` of the weight.
    """

    node: fx.Node
    weight: fx.Node
    axis: int
    filters: Ids


@dataclass
class Channels:
    """The channel dependencies of a graph.

    Attributes:
        axes: of every tensor; a list of them for an operation with several results.
        layers: the operations with filters in a constant, in the order of the graph.
        weights: the constants, maybe behind masks and quantizers, that layers and norms multiply and add: masks go on them.
        groups: for grouped operations, the identifiers of their groups.
        products: the axes that are split or merged.
    """

    graph_module: fx.GraphModule
    elements: Elements = field(default_factory=Elements)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    weights: dict[fx.Node, None] = field(default_factory=dict)
    groups: dict[fx.Node, Ids | None] = field(default_factory=dict)
    products: Products = field(init=False)
    _constants: dict[str, list[Ids | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.products = Products(self.elements)

    def of(self, node: fx.Node) -> list[Ids | None]:
        """For each axis of a tensor its identifiers; None for one that loses no index (batch, height, a kernel).

        An axis of a free size times n may have n identifiers: those of its n fastest indices, over and over.
        """
        return self.axes[node]

    def pin(self, axis: Iterable[int] | None, reason: str) -> None:
        if axis is not None:
            self.elements.pin(axis, reason)

    def pin_all(self, axes: Any, reason: str) -> None:
        """Pin every channel of a tensor, or of each of several."""
        for axis in axes or ():
            if axis and isinstance(axis[0], int):
                self.pin(axis, reason)
            elif axis:
                self.pin_all(axis, reason)

    def fixed(self, value: Any, reason: str) -> Any:
        """Axes for `value` all of which must stay as they are."""
        if isinstance(value, (list, tuple)):
            return [self.fixed(one, reason) for one in value]
        if not isinstance(value, Tensor):
            return []
        return [self.pinned(size, reason) if isinstance(size, int) and size > 1 else None for size in value.shape]

    def pinned(self, size: int, reason: str) -> Ids:
        """An axis of `size` indices all of which must stay."""
        axis = self.elements.fresh(size)
        self.elements.pin(axis, reason)
        return axis

    def all_axes(self) -> Iterable[Ids]:
        """Every axis of a weight or value that can lose indices, once."""
        several = (axes if isinstance(node.meta.get("val"), (list, tuple)) else [axes] for node, axes in self.axes.items())
        return {id(ids): ids for results in several for axes in results for ids in axes if ids}.values()

    def add_weight(self, weight: fx.Node) -> bool:
        """Note that `weight` may be masked; whether it is a constant, which can be."""
        source = _source(weight)
        if source is not None:
            self.weights[source] = None
        return source is not None

    def add_layer(self, node: fx.Node, weight: fx.Node, filters: Ids | None) -> None:
        """Note that `node` has `filters`, where an axis of the constant `weight` holds them."""
        source = _source(weight)
        if source is not None and filters is not None:
            along = [position for position, axis in enumerate(self.of(source)) if axis is filters]
            self.layers += [Layer(node, source, position, filters) for position in along]

    # ------------------------------------------------------------------------------------------------- the analysis

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.axes[node] = self.fixed(node.meta.get("val"), "they are inputs of the model")
        elif node.op == "get_attr":
            self.axes[node] = self._constant(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.pin_all(self.axes[source], "they are outputs of the model")
        elif node.target is operator.getitem:
            self.axes[node] = self.axes[node.args[0]][node.args[1]]  # type: ignore[index]
        elif node.op == "call_module" and isinstance(self.graph_module.get_submodule(str(node.target)), Narrowable):
            self.axes[node] = self.of(node.args[0])  # type: ignore[arg-type]
        elif node.target in SCALAR_FUNCTIONS:
            self.axes[node] = []
        else:
            self.axes[node] = self._call(node)

    def _call(self, node: fx.Node) -> Any:
        if isinstance(node.target, OpOverload):
            call = Call(self, node)
            if not call.operands:
                return self.fixed(node.meta.get("val"), f"{describe(node)} has a fixed size")
            rule = rule_of(node.target)
            found = rule and call.finish(rule(call))
            if found is not None:
                return found
        reason = f"what {operation(node)} does to channels is not known: {describe(node)}"
        for source in node.all_input_nodes:
            self.pin_all(self.axes[source], reason)
        return self.fixed(node.meta.get("val"), reason)

    def _constant(self, node: fx.Node) -> list[Ids | None]:
        target = str(node.target)
        if target not in self._constants:
            value = node.meta.get("val")
            sizes = value.shape if isinstance(value, Tensor) else ()
            self._constants[target] = [self.elements.fresh(size) if size > 1 else None for size in sizes]
        return self._constants[target]


def _source(weight: fx.Node) -> fx.Node | None:
    """The constant, maybe behind modules, that `weight` is or is the transpose of; None where it is computed."""
    if weight.target is torch.ops.aten.transpose.int:
        weight = weight.args[0]  # type: ignore[assignment]
    return weight if source_constant(weight) else None


def analyze(graph_module: fx.GraphModule, keep: Callable[[Channels], None] | None = None) -> Channels:
    """The channel dependencies of `graph_module`.

    Args:
        keep: pins what must stay for reasons of its own, before it is decided which part of a split axis may lose indices.
    """
    channels = Channels(graph_module)
    for node in graph_module.graph.nodes:
        channels.visit(node)
    if keep is not None:
        keep(channels)
    channels.products.resolve()
    return channels
