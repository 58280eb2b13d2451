"""Axes that are split into several or merged from them: only one of the parts can lose indices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import fx

from fxcompress.channels.elements import Elements, Ids

Parts = Mapping[str, int | None]
"""The part of each product which may lose indices, by the product's name; None for no part."""


@dataclass(frozen=True, eq=False)
class Product:
    """`whole` is the product of the axes `parts`, of which one may lose indices; None for a part that cannot.

    Attributes:
        where: the operation that splits or merges, for messages.
        preferred: the part to lose indices where as many could go with another.
        name: tells it from the others of the graph, in every analysis of that.
    """

    whole: Ids
    parts: tuple[Ids | None, ...]
    sizes: tuple[int, ...]
    where: str
    preferred: int | None = None
    name: str = ""

    def coordinates(self, part: int) -> list[int]:
        """For each index of the whole, which index of `part` it belongs to."""
        inner, size = math.prod(self.sizes[part + 1 :]), self.sizes[part]
        return [(position // inner) % size for position in range(len(self.whole))]


@dataclass
class Products:
    """The products of a graph, to be resolved when it is known what must stay: what is left must be a box of numbers.

    Attributes:
        chosen: what has been resolved.
    """

    elements: Elements
    pending: list[Product] = field(default_factory=list)
    chosen: dict[str, int | None] = field(default_factory=dict)

    def add(
        self,
        node: fx.Node,
        whole: Ids,
        parts: tuple[Ids | None, ...],
        sizes: tuple[int, ...],
        where: str,
        preferred: int | None,
    ) -> None:
        """Note a product that `node` splits or merges; see `Product`."""
        number = sum(product.name.startswith(f"{node.name}.") for product in self.pending)
        self.pending.append(Product(whole, parts, sizes, where, preferred, f"{node.name}.{number}"))

    def resolve(self, known: Parts | None = None) -> None:
        """Choose for each which of its parts may lose indices, those without a choice first.

        The part chosen is the one with which most can be removed; else one whose indices need not go together; else one that
        was chosen elsewhere; else the one that is preferred; else the one with most sets of indices.

        Args:
            known: what was `chosen` in the same graph when less was pinned: with other parts, other channels would go.
        """
        known = known or {}
        for product in self.pending:
            if product.name in known:
                self._choose(product, known[product.name])
        self.pending = [product for product in self.pending if product.name not in known]
        while self.pending:
            options = [(product, self._candidates(product)) for product in self.pending]
            forced = [option for option in options if len(option[1]) <= 1]
            for product, candidates in forced or options[:1]:
                self._choose(product, max(candidates, key=partial(self._worth, product, candidates), default=None))
            settled = {id(product) for product, _ in forced or options[:1]}
            self.pending = [product for product in self.pending if id(product) not in settled]

    def _candidates(self, product: Product) -> dict[int, Ids]:
        """The parts that can lose indices, with those that can go."""
        found = {}
        held = [position for position, one in enumerate(product.whole) if not self.elements.is_free(one)]
        for part, ids in enumerate(product.parts):
            if ids is not None:
                coordinates = product.coordinates(part)
                kept = {coordinates[position] for position in held}
                free = [one for index, one in enumerate(ids) if index not in kept and self.elements.is_free(one)]
                if free:
                    found[part] = free
        return found

    def _worth(self, product: Product, candidates: dict[int, Ids], part: int) -> tuple[int, bool, bool, bool, int, int]:
        """What speaks for `part`, first things first: see `resolve`."""
        ids, free = product.parts[part] or [], candidates[part]
        goes, sets = len(free) * len(product.whole) // len(ids), self._sets(product.whole, product.coordinates(part))
        return goes, sets == len(ids), self.elements.carries(free), part == product.preferred, sets, part

    def _sets(self, whole: Ids, coordinates: list[int]) -> int:
        """How many sets of channels there are once those of `whole` are joined that have the same coordinate."""
        joined = Elements()
        own = joined.fresh(max(coordinates) + 1)
        name = {root: joined.fresh(1)[0] for root in dict.fromkeys(map(self.elements.find, whole))}
        for one, coordinate in zip(whole, coordinates):
            joined.join([name[self.elements.find(one)]], [own[coordinate]])
        return len({joined.find(one) for one in own})

    def _choose(self, product: Product, chosen: int | None) -> None:
        self.chosen[product.name] = chosen
        reason = f"the axis is split or merged in {product.where}"
        for part, ids in enumerate(product.parts):
            if part != chosen:
                self._pin(ids, reason)
        if chosen is None:
            self._pin(product.whole, reason)
            return
        ids = product.parts[chosen]
        assert ids is not None
        self.elements.join(product.whole, [ids[index] for index in product.coordinates(chosen)])
        self.elements.carry(ids)

    def _pin(self, ids: Iterable[int] | None, reason: str) -> None:
        if ids is not None:
            self.elements.pin(ids, reason)
