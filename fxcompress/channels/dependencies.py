"""The channels of a graph: an identifier for each index of each axis, joined where operations tie channels together.

Every weight and every value has a list of identifiers for each of its axes that can lose indices. A convolution gives its
output the identifiers of its weight's first axis and joins those of its input with the second one; an addition joins its
operands'; a concatenation puts lists one behind the other. Where a reshape splits or merges axes, only one of the parts can
lose indices and still be a box of numbers: which one is decided at the end, when it is known what must stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.channels.elements import Elements, Ids
from fxcompress.channels.products import Products
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


def _source(weight: fx.Node) -> fx.Node | None:
    """The constant, maybe behind modules, that `weight` is or is the transpose of; None where it is computed."""
    if weight.target is torch.ops.aten.transpose.int:
        weight = weight.args[0]  # type: ignore[assignment]
    return weight if source_constant(weight) else None
