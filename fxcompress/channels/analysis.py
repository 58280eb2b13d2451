"""Channel dependencies: an identifier for each index of each axis, joined where operations tie channels together.

Every weight and every value has a list of identifiers for each of its axes that can lose indices. A convolution gives its
output the identifiers of its weight's first axis and joins those of its input with the second one; an addition joins its
operands'; a concatenation puts lists one behind the other. Where a reshape splits or merges axes, only one of the parts can
lose indices and still be a box of numbers: which one is decided at the end, when it is known what must stay.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, fx, nn

from fxcompress.channels.elements import Elements, Ids
from fxcompress.errors import describe
from fxcompress.ir.dialect import SCALAR_FUNCTIONS
from fxcompress.ir.signature import operation
from fxcompress.masks.mask import source_constant

Axes: TypeAlias = list[Ids | None]
"""For each axis of a tensor its identifiers; None for one that loses no index (batch, height, a kernel).

An axis of a free size times n may have n identifiers: those of its n fastest indices, over and over.
"""


@runtime_checkable
class Narrowable(Protocol):
    """A module in a graph that treats every channel by itself, and can do so for fewer of them: a mask, a quantizer.

    Attributes:
        whole_axes: those of its input that can lose no channel.
    """

    whole_axes: tuple[int, ...]

    def narrowed(self, kept: Mapping[int, Tensor]) -> nn.Module:
        """The module for tensors of which only the indices `kept` of axes are left, by axis; other axes stay whole."""


RULES: dict[str, Callable[[Channels, fx.Node], Any]] = {}
"""What operations do to channels, by the name of the ATen operation: the axes of the result, or of each result."""


def rule(names: str):
    """Enter the decorated function of (channels, node) for the operations with the space-separated `names`."""

    def enter(function: Callable[[Channels, fx.Node], Any]):
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


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


@dataclass(frozen=True, eq=False)
class _Product:
    """`whole` is the product of the axes `parts`, of which one may lose indices; None for a part that cannot."""

    whole: Ids
    parts: tuple[Ids | None, ...]
    sizes: tuple[int, ...]
    node: fx.Node

    def coordinates(self, part: int) -> list[int]:
        """For each index of the whole, which index of `part` it belongs to."""
        inner, size = math.prod(self.sizes[part + 1 :]), self.sizes[part]
        return [(position // inner) % size for position in range(len(self.whole))]


@dataclass
class Channels:
    """The channel dependencies of a graph.

    Attributes:
        axes: of every tensor; a list of them for an operation with several results.
        layers: the operations with filters in a constant, in the order of the graph.
        weights: the constants, maybe behind masks and quantizers, that layers and norms multiply and add: masks go on them.
        groups: for grouped operations, the identifiers of their groups.
    """

    graph_module: fx.GraphModule
    elements: Elements = field(default_factory=Elements)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    weights: dict[fx.Node, None] = field(default_factory=dict)
    groups: dict[fx.Node, Ids | None] = field(default_factory=dict)
    _products: list[_Product] = field(default_factory=list)
    _constants: dict[str, Axes] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ what rules use

    def of(self, node: fx.Node) -> Axes:
        """The axes of a tensor."""
        return self.axes[node]

    def pin(self, axis: Iterable[int] | None, reason: str) -> None:
        if axis is not None:
            self.elements.pin(axis, reason)

    def meet(self, node: fx.Node, *parts: Ids | None) -> Ids | None:
        """The axis that results where equal indices of `parts` meet in `node`."""
        tracked = [part for part in parts if part is not None]
        if not tracked:
            return None
        if len(tracked) < len(parts) or len({len(part) for part in tracked}) > 1:
            for part in tracked:
                self.pin(part, f"they meet an axis of fixed size in {describe(node)}")
            return tracked[0]
        for part in tracked[1:]:
            if part is not tracked[0]:
                self.elements.join(tracked[0], part)
        return tracked[0]

    def split(self, node: fx.Node, whole: Ids | None, sizes: Sequence[int]) -> list[Ids | None]:
        """The parts of an axis that is read as several, of `sizes`."""
        if whole is None:
            return [None] * len(sizes)
        real = [size for size in sizes if size > 1]
        if len(real) <= 1:
            return [whole if size > 1 else None for size in sizes]
        parts = tuple(self.elements.fresh(size) if size > 1 else None for size in sizes)
        self._products.append(_Product(whole, parts, tuple(sizes), node))
        return list(parts)

    def merge(self, node: fx.Node, parts: Sequence[Ids | None], sizes: Sequence[int]) -> Ids | None:
        """The axis that several, of `sizes`, become."""
        tracked = [part for part in parts if part is not None]
        if len(tracked) > 1:
            whole = self.elements.fresh(math.prod(sizes))
            self._products.append(_Product(whole, tuple(parts), tuple(sizes), node))
            return whole
        if not tracked:
            return None
        position = next(i for i, part in enumerate(parts) if part is not None)
        outer, inner = math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
        return [one for one in tracked[0] for _ in range(inner)] * outer

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

    def add_weight(self, weight: Any) -> bool:
        """Note that `weight` may be masked; whether it is a constant, which can be."""
        source = self.source(weight)
        if source is not None:
            self.weights[source] = None
        return source is not None

    def add_layer(self, node: fx.Node, weight: fx.Node, filters: Ids | None) -> None:
        """Note that `node` has `filters`, where an axis of the constant `weight` holds them."""
        source = self.source(weight)
        if source is not None and filters is not None:
            along = [position for position, axis in enumerate(self.of(source)) if axis is filters]
            self.layers += [Layer(node, source, position, filters) for position in along]

    def source(self, weight: Any) -> fx.Node | None:
        """The constant, maybe behind modules, that `weight` is or is the transpose of; None where it is computed."""
        if isinstance(weight, fx.Node) and weight.target is torch.ops.aten.transpose.int:
            weight = weight.args[0]
        return weight if isinstance(weight, fx.Node) and source_constant(weight) else None

    # ------------------------------------------------------------------------------------------------- the analysis

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.axes[node] = self.fixed(node.meta.get("val"), "they are inputs of the model")
        elif node.op == "get_attr":
            self.axes[node] = self._constant(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.pin_all(self.axes[source], "they are outputs of the model")
        elif node.op == "call_module" and isinstance(self.graph_module.get_submodule(str(node.target)), Narrowable):
            self.axes[node] = self.of(node.args[0])  # type: ignore[arg-type]
        else:
            self.axes[node] = self._call(node)

    def _call(self, node: fx.Node) -> Any:
        if node.target in SCALAR_FUNCTIONS and node.target is not operator.getitem:
            return []
        if not any(self.axes[source] for source in node.all_input_nodes):
            return self.fixed(node.meta.get("val"), f"{describe(node)} has a fixed size")
        known = RULES.get(operation(node))
        if known is not None:
            return known(self, node)
        reason = f"what {operation(node)} does to channels is not known: {describe(node)}"
        for source in node.all_input_nodes:
            self.pin_all(self.axes[source], reason)
        return self.fixed(node.meta.get("val"), reason)

    def pin_all(self, axes: Any, reason: str) -> None:
        """Pin every channel of a tensor, or of each of several."""
        for axis in axes or ():
            if axis and isinstance(axis[0], int):
                self.pin(axis, reason)
            elif axis:
                self.pin_all(axis, reason)

    def _constant(self, node: fx.Node) -> Axes:
        target = str(node.target)
        if target not in self._constants:
            value = node.meta.get("val")
            sizes = value.shape if isinstance(value, Tensor) else ()
            self._constants[target] = [self.elements.fresh(size) if size > 1 else None for size in sizes]
        return self._constants[target]

    def resolve(self) -> None:
        """Choose for each split and merged axis which of its parts may lose indices, those without a choice first.

        The part chosen is the one with which most can be removed; else one that was chosen elsewhere; else the finest.
        """
        pending = self._products
        while pending:
            options = [(product, self._candidates(product)) for product in pending]
            forced = [option for option in options if len(option[1]) <= 1]
            for product, candidates in forced or options[:1]:
                self._choose(product, max(candidates)[-1] if candidates else None)
            settled = {id(product) for product, _ in forced or options[:1]}
            pending = [product for product in pending if id(product) not in settled]

    def _candidates(self, product: _Product) -> list[tuple[int, bool, int, int]]:
        """For each part that can lose indices: how much of the whole goes with it, whether it carries, size, position."""
        found = []
        held = [position for position, one in enumerate(product.whole) if not self.elements.is_free(one)]
        for part, ids in enumerate(product.parts):
            if ids is None:
                continue
            coordinates = product.coordinates(part)
            kept = {coordinates[position] for position in held}
            free = [one for index, one in enumerate(ids) if index not in kept and self.elements.is_free(one)]
            if free:
                found.append((len(free) * len(product.whole) // len(ids), self.elements.carries(free), len(ids), part))
        return found

    def _choose(self, product: _Product, chosen: int | None) -> None:
        reason = f"the axis is split or merged in {describe(product.node)}"
        for part, ids in enumerate(product.parts):
            if part != chosen:
                self.pin(ids, reason)
        if chosen is None:
            self.pin(product.whole, reason)
            return
        ids = product.parts[chosen]
        assert ids is not None
        self.elements.join(product.whole, [ids[index] for index in product.coordinates(chosen)])
        self.elements.carry(ids)


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
    channels.resolve()
    return channels
