"""A call as the rule of its operation sees it, and the account of every axis that the rule is given or makes.

The account makes a rule safe that forgets an axis. Each axis of an operand that has channels gets a number in it, and so
does each that the rule splits or merges of others. A number is crossed out when its axis is part of a result, when it is
split or merged into others, and when it is tied to a weight's. Whatever is not crossed out when the rule returns stays
whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.channels.dependencies import Channels
from fxcompress.channels.elements import Ids
from fxcompress.errors import describe
from fxcompress.ir.counted_ops import COUNTED
from fxcompress.ir.signature import arguments


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of a tensor.

    Attributes:
        size: a number, or a symbol where it is free.
        ids: its channels; None where it loses no index (see `Channels.of`).
        numbers: those in the account of the call.
    """

    size: Any
    ids: Ids | None = None
    numbers: frozenset[int] = frozenset()

    @property
    def fixed(self) -> bool:
        """Whether its size is a number."""
        return isinstance(self.size, int)


Axes: TypeAlias = list[Axis]


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor that a call reads."""

    node: fx.Node
    axes: Axes

    @property
    def rank(self) -> int:
        return len(self.axes)


Rule: TypeAlias = "Callable[[Call], Axes | tuple[Axes, ...]]"
"""The axes of the result; those of each of several results in a tuple, or of all of them."""

RULES: dict[str, Rule] = {}
"""What operations do to channels, by the name of the ATen operation; ``"pointwise"`` is for those with that tag."""


def rule(names: str):
    """Enter the decorated function for the operations with the space-separated `names`."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def rule_of(target: OpOverload) -> Rule | None:
    """What `target` does to channels; None where that is not known."""
    name = "pointwise" if torch.Tag.pointwise in target.tags else target.overloadpacket.__name__
    return RULES.get(name)


class Call:
    """What a rule may use.

    Attributes:
        node: the call.
        operands: the tensors that it reads, in order.
    """

    def __init__(self, channels: Channels, node: fx.Node):
        self.channels, self.node = channels, node
        self.operands: list[Operand] = []
        self._open: dict[int, Ids] = {}
        self._numbers = 0
        self._given = {name: fx.node.map_arg(value, self._operand) for name, value in arguments(node).items()}

    def __str__(self) -> str:
        return describe(self.node)

    def __getitem__(self, name: str) -> Any:
        """The argument of that name in the schema, an `Operand` for a tensor; None where there is no such argument."""
        return self._given.get(name)

    def _operand(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return node
        axes = [self._opened(size, ids) for size, ids in zip(value.shape, self.channels.of(node))]
        self.operands.append(Operand(node, axes))
        return self.operands[-1]

    def _opened(self, size: Any, ids: Ids | None) -> Axis:
        """An axis that the rule must account for."""
        if ids is None:
            return Axis(size)
        self._numbers += 1
        self._open[self._numbers] = ids
        return Axis(size, ids, frozenset({self._numbers}))

    def _close(self, axes: Iterable[Axis]) -> None:
        for axis in axes:
            for number in axis.numbers:
                self._open.pop(number, None)

    @property
    def results(self) -> Sequence[Any]:
        """The result, or each of several, as a tensor without values."""
        value = self.node.meta["val"]
        return value if isinstance(value, (tuple, list)) else [value]

    @property
    def result(self) -> Tensor:
        """The first of `results`."""
        return self.results[0]

    def dimension(self, name: str = "dim") -> int:
        """The dimension of the first operand that an argument names, counted from the front."""
        return self[name] % self.operands[0].rank

    def whole(self) -> tuple[Axes, ...]:
        """Axes for the result, or each, that lose no index."""
        return tuple([Axis(size) for size in one.shape] if isinstance(one, Tensor) else [] for one in self.results)

    # ------------------------------------------------------------------------------------------- axes made of others

    def pin(self, axes: Iterable[Axis], reason: str) -> None:
        """Keep all channels of `axes`."""
        for axis in axes:
            self.channels.pin(axis.ids, f"{reason} in {self}")

    def meet(self, *axes: Axis) -> Axis:
        """What results where equal indices of `axes` meet; those of size one are stretched where another is longer."""
        longer = [axis for axis in axes if not axis.fixed or axis.size != 1] or list(axes)
        tracked = [axis for axis in longer if axis.ids is not None]
        if not tracked:
            return Axis(longer[0].size if longer else 1)
        first = tracked[0]
        assert first.ids is not None
        if len(tracked) < len(longer) or len({(axis.fixed, len(axis.ids or ())) for axis in tracked}) > 1:
            self.pin(tracked, "they meet an axis of fixed size")
        else:
            for axis in tracked[1:]:
                if axis.ids is not first.ids:
                    self.channels.elements.join(first.ids, axis.ids or ())
        return Axis(first.size, first.ids, frozenset().union(*(axis.numbers for axis in tracked)))

    def tie(self, *axes: Axis) -> None:
        """Let equal indices of `axes` go together, though they are no part of a result: a weight's columns and its input."""
        self._close([self.meet(*axes)])

    def broadcast(self, *operands: Sequence[Axis]) -> Axes:
        """The axes of what operands with these axes give together: counted from the back, those that are there meet."""
        rank = max(map(len, operands), default=0)
        return [self.meet(*(axes[-back] for axes in operands if len(axes) >= back)) for back in range(rank, 0, -1)]

    def stretched(self, size: Any) -> Axis:
        """An axis of one index over and over: as many as what it meets has."""
        return self._opened(size, self.channels.elements.fresh(size) if isinstance(size, int) and size > 1 else None)

    def take(self, axis: Axis, positions: Sequence[int]) -> Axis:
        """These indices of an axis, whose others are not read."""
        if axis.ids is None or not axis.fixed:
            return Axis(len(positions))
        return Axis(len(positions), [axis.ids[position] for position in positions], axis.numbers)

    def join(self, axes: Sequence[Axis]) -> Axis:
        """`axes` one behind the other."""
        size = sum(axis.size for axis in axes)
        if not all(axis.fixed for axis in axes) or not any(axis.ids for axis in axes):
            return Axis(size)
        reason = f"{self} joins an axis of fixed size"
        ids = [one for axis in axes for one in axis.ids or self.channels.pinned(axis.size, reason)]
        return Axis(size, ids, frozenset().union(*(axis.numbers for axis in axes)))

    def split(self, axis: Axis, sizes: Sequence[int], preferred: int | None = None) -> Axes:
        """The parts of an axis that is read as several, of `sizes`; see `Product.preferred`."""
        if axis.ids is None or not axis.fixed:
            return [Axis(size) for size in sizes]
        if sum(size > 1 for size in sizes) <= 1:
            return [Axis(size, axis.ids, axis.numbers) if size > 1 else Axis(size) for size in sizes]
        parts = [self._opened(size, self.channels.elements.fresh(size) if size > 1 else None) for size in sizes]
        self._add_product(axis.ids, parts, preferred)
        self._close([axis])
        return parts

    def merge(self, parts: Sequence[Axis]) -> Axis:
        """The axis that several become."""
        sizes, tracked = [part.size for part in parts], [part for part in parts if part.ids is not None]
        size = math.prod(sizes)
        if len(tracked) > 1:
            ids = self.channels.elements.fresh(size)
            self._add_product(ids, parts)
            self._close(parts)
            return self._opened(size, ids)
        if not tracked:
            return Axis(size)
        position = next(i for i, part in enumerate(parts) if part.ids is not None)
        outer, inner = math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
        return Axis(size, [one for one in tracked[0].ids or () for _ in range(inner)] * outer, tracked[0].numbers)

    def _add_product(self, whole: Ids, parts: Sequence[Axis], preferred: int | None = None) -> None:
        ids, sizes = tuple(part.ids for part in parts), tuple(part.size for part in parts)
        self.channels.products.add(self.node, whole, ids, sizes, str(self), preferred)

    # ------------------------------------------------------------------------------------------------------- weights

    def sum_over(self, axis: Axis, weight: Operand, column: int) -> None:
        """Tie `axis` to the columns of a weight, which is summed over; it stays where the weight is computed."""
        if self.channels.add_weight(weight.node):
            self.tie(axis, weight.axes[column])
        else:
            self.meet(axis, weight.axes[column])
            self.pin([axis], "the weight is computed, not a constant,")

    def affine(self, axis: Axis, *vectors: Operand | None) -> Axis:
        """`axis` behind a scale and a shift, which are masked with it."""
        for vector in vectors:
            if vector is not None:
                self.channels.add_weight(vector.node)
                axis = self.meet(axis, vector.axes[0])
        return axis

    # -------------------------------------------------------------------------------------------------------- sums

    def is_counted(self, operand: Operand, axis: int) -> bool:
        """Whether `operand` holds zeros where channels of `axis` are masked, so that a sum leaves them out."""
        node = operand.node
        while node.op == "call_module":  # a quantizer, which keeps zeros
            node = node.args[0]  # type: ignore[assignment]
        return node.target is COUNTED and node.args[2] % operand.rank == axis  # type: ignore[operator]

    def tie_counted(self, operand: Operand, dimensions: Iterable[int]) -> None:
        """Let the channels go that a sum over `dimensions` leaves out."""
        for dim in dimensions:
            if self.is_counted(operand, dim):
                self.tie(operand.axes[dim])

    def finish(self, given: Axes | tuple[Axes, ...]) -> list[Any] | None:
        """The identifiers of the result, or of each: what is not accounted for is pinned. None where they do not fit."""
        results = self.results
        several = list(given) if isinstance(given, tuple) else [given] * len(results)
        if len(several) != len(results) or not all(map(_fits, several, results)):
            return None
        self._close(axis for axes in several for axis in axes)
        for ids in self._open.values():
            self.channels.pin(ids, f"{self} takes them in")
        for source in self.node.all_input_nodes:
            if isinstance(source.meta.get("val"), (int, torch.SymInt)):
                known = isinstance(source.meta["val"], int)
                self.pin((axis for axes in several for axis in axes if known or not axis.fixed), "a size is computed")
        found = [[axis.ids for axis in axes] for axes in several]
        return found if isinstance(self.node.meta["val"], (tuple, list)) else found[0]


def _fits(axes: Axes, value: Any) -> bool:
    """Whether they are axes of `value`, index by index where its size is a number."""
    if not isinstance(value, Tensor):
        return not axes
    sizes = zip(axes, value.shape)
    return len(axes) == value.dim() and all(a.ids is None or len(a.ids) == n for a, n in sizes if isinstance(n, int))
