"""Two steps of a loop side by side, call by call: what differs is what a step reads at its place and what it carries on.

What both read alike every step is given. What the second reads of the first is carried. A tensor that each reads, or writes,
at its own place is one that the loop goes over.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.capture.loops import STEP_ENDS
from fxcompress.capture.written_out import LoopError
from fxcompress.errors import source_line

aten = torch.ops.aten


@dataclass(frozen=True)
class Made:
    """What the call with this number gives in each step."""

    number: int


@dataclass(frozen=True)
class Carried:
    """What the call with this number gave in the step before, and `first` in the first."""

    first: fx.Node
    number: int


@dataclass(frozen=True)
class Place:
    """The place of each step in a tensor, which is that of the first step at `start`."""

    tensor: fx.Node
    axis: int
    start: int


@dataclass(frozen=True)
class Read:
    """A call that gives the place of the step; `apart`, with its axis."""

    place: Place
    apart: bool = False


@dataclass(frozen=True)
class Written:
    """A call that puts a value at the place of the step."""

    value: Made | Carried
    place: Place


@dataclass(frozen=True)
class Called:
    """Any other call, whose arguments have `Made` and `Carried` in them."""

    args: Any
    kwargs: Any


Varying: TypeAlias = Read | Written | Called


class Steps:
    """The calls of the steps of one loop.

    Attributes:
        ends: the marks in front of the first step and behind each.
        calls: of each step, in the same order.
        varying: what a call does that does not give the same in all steps, by its number.
    """

    def __init__(self, ends: list[fx.Node]) -> None:
        self.graph, self.ends = ends[0].graph, ends
        first, second = (self._between(*pair) for pair in pairwise(ends))
        self.calls = [self._also_of(first, second), second]
        self.numbers = [{node: number for number, node in enumerate(step)} for step in self.calls]
        self.varying: dict[int, Varying] = {}
        for number, pair in enumerate(zip(*self.calls)):
            found = self._compared(*pair)
            if found is not None:
                self.varying[number] = found

    def error(self, reason: str) -> LoopError:
        """The loop cannot be traced for any number of steps."""
        return LoopError(f"a loop cannot be of any number of steps, since {reason}: {source_line(self.ends[0])}")

    def argument(self, one: Any, other: Any, call: fx.Node) -> Any:
        """What the first step gives `call` as `one` and the second as `other`.

        Raises:
            LoopError: it is none of what a step has.
        """
        if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
            if type(one) is type(other) and one == other:
                return one
            raise self.error(f"{call.target} is given the number of the step, or something else that no tensor has")
        number, before = self.numbers[1].get(other), self.numbers[0].get(other)
        if number is not None and self.numbers[0].get(one) == number:
            return Made(number) if number in self.varying else one
        if one is other and before is None:
            return one
        if before is not None and number is None and self.numbers[0].get(one) not in self.varying:
            return Carried(one, before)
        raise self.error(f"{call.target} reads what no step before gives in the same way")

    def needs(self, number: int) -> list[Made | Carried]:
        """What a call reads of this step and the one before."""
        return [one for one in pytree.tree_leaves(self._arguments(number)) if isinstance(one, Made | Carried)]

    def given(self, number: int) -> list[fx.Node]:
        """What a call reads that all steps are given."""
        return [one for one in pytree.tree_leaves(self._arguments(number)) if isinstance(one, fx.Node)]

    def _arguments(self, number: int) -> Any:
        found = self.varying[number]
        return (found.args, found.kwargs) if isinstance(found, Called) else found.value if isinstance(found, Written) else ()

    def _between(self, start: fx.Node, end: fx.Node) -> list[fx.Node]:
        found, node = [], start.next
        while node is not end:
            found.append(node)
            node = node.next
        unread = set()
        for node in reversed(found):
            if not node.users:
                self.graph.erase_node(node)
                unread.add(node)
        return [node for node in found if node not in unread and node.op != "get_attr"]

    def _also_of(self, first: list[fx.Node], second: list[fx.Node]) -> list[fx.Node]:
        """The first step without what it alone makes, of values from outside: the parts of a state that is carried."""
        alike: dict[fx.Node, None] = {}
        for node in first:
            if len(alike) < len(second) and node.target is second[len(alike)].target:
                alike[node] = None
            elif any(source in alike for source in node.all_input_nodes):
                break
        if len(alike) != len(second):
            raise self.error("its first step makes other calls than the second")
        return [*alike]

    def _compared(self, first: fx.Node, second: fx.Node) -> Varying | None:
        """What a call does; None, where it gives the same in every step."""
        leaves, form = pytree.tree_flatten((first.args, first.kwargs))
        others, other_form = pytree.tree_flatten((second.args, second.kwargs))
        if form != other_form:
            raise self.error(f"it calls {first.target} otherwise in the second step than in the first")
        own = self._at_its_place(first, second)
        if own is not None:
            return own
        found = [self.argument(one, other, first) for one, other in zip(leaves, others)]
        return Called(*pytree.tree_unflatten(found, form)) if any(isinstance(one, Made | Carried) for one in found) else None

    def _at_its_place(self, first: fx.Node, second: fx.Node) -> Varying | None:
        args, others = first.args, second.args
        if first.target is aten.select.int and self._is_given(args[0], others[0]) and _follow(args[2], others[2]):
            return Read(_place(args[0], args[1], args[2]))
        if first.target is aten.slice.Tensor and self._is_given(args[0], others[0]) and _are_places(args[2:], others[2:]):
            return Read(_place(*args[:3]), apart=True)
        if first.target is aten.select_scatter.default and others[0] is first and _follow(args[3], others[3]):
            value = self.argument(args[1], others[1], first)
            alone = all(user is second or user.target is STEP_ENDS for user in first.users)
            if alone and isinstance(value, Made | Carried) and not any(args[0] in numbers for numbers in self.numbers):
                return Written(value, _place(args[0], args[2], args[3]))
        return None

    def _is_given(self, one: Any, other: Any) -> bool:
        """Whether all steps are given the same value."""
        number = self.numbers[0].get(one)
        if number is None:
            return one is other
        return self.numbers[1].get(other) == number and number not in self.varying


def _place(tensor: Any, axis: Any, start: Any) -> Place:
    return Place(tensor, axis % tensor.meta["val"].dim(), start)


def _are_places(bounds: Any, others: Any) -> bool:
    """Whether each pair of bounds is of one place, and the second of the place behind."""
    return len(bounds) == len(others) == 2 and bounds[1] == others[0] and _follow(*bounds) and _follow(*others)


def _follow(one: Any, other: Any) -> bool:
    """Whether two whole numbers follow one another."""
    return isinstance(one, int) and isinstance(other, int) and one >= 0 and other == one + 1
