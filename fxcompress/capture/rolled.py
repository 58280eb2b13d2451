"""The steps of a loop that `fxcompress.capture.loops` tried, as one operation over all steps."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.capture.loops import GATHERED_STEPS, STEP_ENDS, TRIED
from fxcompress.capture.respelling import same_size, same_sizes
from fxcompress.capture.steps import Called, Carried, Made, Place, Read, Steps, Written
from fxcompress.capture.written_out import LoopError
from fxcompress.errors import source_line
from fxcompress.ir.fake import insert_call
from fxcompress.ir.modes import mode_argument
from fxcompress.ir.scan_ops import SCAN, Body, Ref

aten = torch.ops.aten


def has_loops(graph: fx.Graph) -> bool:
    """Whether `graph` has loops over steps in it, of which some were tried."""
    return bool(graph.find_nodes(op="call_function", target=STEP_ENDS))


def roll(graph: fx.Graph) -> list[str]:
    """Make one operation of each loop of `graph` that computes something; a note for each.

    Raises:
        LoopError: a loop has no such form; says why, and where it is.
    """
    notes = []
    while ends := _innermost(graph):
        note = f"a loop is one operation of any number of steps, which computes in float: {source_line(ends[0])}"
        notes += [note] if _Loop(Steps(ends)).roll() else []
    return notes


def _innermost(graph: fx.Graph) -> list[fx.Node]:
    """The marks of the first loop that ends; empty where there is none."""
    begun: list[list[fx.Node]] = []
    for node in graph.find_nodes(op="call_function", target=STEP_ENDS):
        if node.args[1] == 0:
            begun.append([])
        if node.args[1] != len(begun[-1]):
            raise LoopError(f"loops that run side by side cannot be of any number of steps: {source_line(node)}")
        begun[-1].append(node)
        if node.args[1] == TRIED:
            return begun[-1]
    if begun:
        raise LoopError(f"a loop that is left before its end cannot be of any number of steps: {source_line(begun[-1][0])}")
    return []


@dataclass(frozen=True)
class _Kept:
    """What is kept of a value of all steps, along a new axis."""

    value: Made | Carried
    axis: int


class _Loop:
    """One loop, from its steps to the operation: `carried` and `kept` are what it gives, in order."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.graph, self.behind = steps, steps.graph, steps.ends[-1]
        self.count = steps.ends[0].args[0]
        self.carried: dict[Carried, None] = {}
        self.kept: dict[_Kept, None] = {}

    def roll(self) -> bool:
        """Put one operation in the place of the steps, if it computes anything; whether it does."""
        readers = [one for one in [*self._joined(), *self._read_behind()] if not self._put_together(*one)]
        if readers:
            self._compute(readers)
        self._erase()
        return bool(readers)

    def _compute(self, readers: list[tuple[fx.Node, Any]]) -> None:
        """Let `readers` of what the steps give read what one operation gives."""
        for _, key in readers:
            (self.carried if isinstance(key, Carried) else self.kept)[key] = None  # type: ignore[index]
        scan = self._operation(self._called())
        outputs = [insert_call(self.behind, operator.getitem, (scan, i), val=one) for i, one in enumerate(scan.meta["val"])]
        results = dict(zip([*self.carried, *self.kept], outputs))
        for reader, key in readers:
            if reader.target is GATHERED_STEPS:
                reader.replace_all_uses_with(results[key], propagate_meta=False)
                self.graph.erase_node(reader)
            else:
                self._hand_over(reader, results[key], isinstance(key, _Kept))

    # What is read behind the loop ----------------------------------------------------------------------------------

    def _joined(self) -> list[tuple[fx.Node, Any]]:
        """Values of all steps that are put together, with what they are."""
        readers = {user for call in self._calls() for user in call.users if user.target is GATHERED_STEPS}
        found: list[tuple[fx.Node, Any]] = []
        for node in (node for node in self.graph.nodes if node in readers):
            first, second = node.args[0]  # type: ignore[misc]
            value = self.steps.argument(first, second, node)
            if not isinstance(value, Made | Carried):
                raise self.steps.error("it puts together what is the same in all steps")
            found.append((node, _Kept(value, node.args[2])))
        return found

    def _put_together(self, reader: fx.Node, key: Any) -> bool:
        """Let `reader` read a tensor itself, where all of its places are put together as they are; whether it does."""
        held = self.steps.varying.get(key.value.number) if isinstance(key, _Kept) and isinstance(key.value, Made) else None
        if not isinstance(held, Read) or reader.target is not GATHERED_STEPS:
            return False
        whole, axis = self._whole(held.place), held.place.axis
        if held.apart:
            whole = insert_call(self.behind, aten.unsqueeze.default, (whole, axis + 1))
        order = [d for d in range(whole.meta["val"].dim()) if d != axis]
        order.insert(key.axis, axis)
        if order != sorted(order):
            whole = insert_call(self.behind, aten.permute.default, (whole, order))
        reader.replace_all_uses_with(whole, propagate_meta=False)
        self.graph.erase_node(reader)
        return True

    def _read_behind(self) -> list[tuple[fx.Node, Any]]:
        """What the last step made that is read behind it, with what it is."""
        within = {*self._calls()}
        carried = [one for number in self.steps.varying for one in self.steps.needs(number) if isinstance(one, Carried)]
        found: list[tuple[fx.Node, Any]] = []
        for number, held in self.steps.varying.items():
            first, last = (calls[number] for calls in self.steps.calls)
            others = [[user for user in call.users if user not in within and not _is_of_loops(user)] for call in (first, last)]
            if others[0]:
                raise self.steps.error("what its first step makes is read behind it")
            if others[1] and isinstance(held, Written):
                found.append((last, _Kept(held.value, held.place.axis)))
            elif others[1]:
                own = next((one for one in carried if one.number == number), None)
                found.append((last, own or _Kept(Made(number), 0)))
        return found

    def _hand_over(self, last: fx.Node, result: fx.Node, of_all_steps: bool) -> None:
        """Let what reads the call `last` behind the loop read what the operation gives."""
        held = self.steps.varying[self.steps.numbers[1][last]]
        if isinstance(held, Written):
            place = held.place
            if not self._is_whole(place):
                written = (place.tensor, result, place.axis, place.start, self._end(place))
                result = insert_call(self.behind, aten.slice_scatter.default, written)
        elif of_all_steps:
            result = insert_call(self.behind, aten.select.int, (result, 0, -1))
        inside = self.steps.numbers[1]
        last.replace_all_uses_with(result, delete_user_cb=lambda user: user not in inside and not _is_of_loops(user))

    # The operation -------------------------------------------------------------------------------------------------

    def _called(self) -> list[int]:
        """The calls that its body makes, in order; what they carry is noted."""
        waiting: list[Any] = [*self.carried, *(kept.value for kept in self.kept)]
        found: set[int] = set()
        while waiting:
            one = waiting.pop()
            if isinstance(one, Carried):
                self.carried[one] = None
            if one.number in self.steps.varying and one.number not in found:
                found.add(one.number)
                waiting += self.steps.needs(one.number)
        for one in self.carried:
            before, after = one.first.meta.get("val"), self.steps.calls[0][one.number].meta.get("val")
            alike = isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype
            if not alike or not same_sizes(before.shape, after.shape):  # type: ignore[union-attr]
                raise self.steps.error(f"{one.first.name!r} has another shape or type behind a step than in front of it")
        return sorted(found)

    def _operation(self, called: list[int]) -> fx.Node:
        varying = [self.steps.varying[number] for number in called]
        places = dict.fromkeys(one.place for one in varying if isinstance(one, Read))
        if not places:
            raise self.steps.error("no tensor has a place for each of its steps")
        given = [node for number in called for node in self.steps.given(number)]
        given += [self.steps.calls[0][one.number] for one in self.carried if one.number not in self.steps.varying]
        held = dict.fromkeys(node for node in given if isinstance(node.meta.get("val"), Tensor))
        sizes = dict.fromkeys(node for node in given if node not in held)
        if any(not isinstance(node.meta.get("val"), torch.SymInt | int) for node in sizes):
            raise self.steps.error("it computes with something that is neither a tensor nor a size")
        body = self._body(called, [*self.carried, *places, *held, *sizes])
        first, scanned = [one.first for one in self.carried], [self._whole(place) for place in places]
        axes, along = [place.axis for place in places], [kept.axis for kept in self.kept]
        return insert_call(self.behind, SCAN, (first, scanned, [*held], [*sizes], axes, along, body))

    def _body(self, called: list[int], given: list[Any]) -> str:
        known: dict[Any, Ref] = {one: Ref(number) for number, one in enumerate(given)}
        known |= {Made(number): known[node] for node, number in self.steps.numbers[0].items() if node in known}
        calls: list[Any] = []
        for number in called:
            held = self.steps.varying[number]
            call = self.steps.calls[0][number]
            if call.target is SCAN:
                raise self.steps.error("it has another in it, which OpenVINO does not take")
            if mode_argument(call) or torch.Tag.nondeterministic_seeded in getattr(call.target, "tags", ()):
                raise self.steps.error(f"{call.target} is another in training, or of chance")
            if isinstance(held, Written):
                raise self.steps.error("it reads what is written at the places of other steps")
            if isinstance(held, Read) and not held.apart:
                known[Made(number)] = known[held.place]
                continue
            known[Made(number)] = Ref(len(given) + len(calls))
            if isinstance(held, Read):
                calls.append((aten.unsqueeze.default, (known[held.place], held.place.axis), {}))
            else:
                calls.append((call.target, *_referring(held, known)))
        carried, kept = ([known[key] for key in keys] for keys in (map(_after, self.carried), (one.value for one in self.kept)))
        try:
            return Body(tuple(calls), tuple(carried), tuple(kept)).text()
        except ValueError as problem:
            raise self.steps.error(str(problem)) from None

    # Where the steps lie -------------------------------------------------------------------------------------------

    def _is_whole(self, place: Place) -> bool:
        """Whether the steps lie at all places of a tensor."""
        count = self.count.meta["val"] if isinstance(self.count, fx.Node) else self.count
        return place.start == 0 and same_size(place.tensor.meta["val"].shape[place.axis], count)

    def _whole(self, place: Place) -> fx.Node:
        """The part of a tensor that the loop goes over."""
        if self._is_whole(place):
            return place.tensor
        return insert_call(self.behind, aten.slice.Tensor, (place.tensor, place.axis, place.start, self._end(place)))

    def _end(self, place: Place) -> Any:
        return insert_call(self.behind, operator.add, (self.count, place.start)) if place.start else self.count

    # What is left of the steps -------------------------------------------------------------------------------------

    def _calls(self) -> list[fx.Node]:
        return [call for calls in self.steps.calls for call in calls]

    def _erase(self) -> None:
        """Erase what the operation stands for; loops around this one keep it no longer."""
        gone = [calls[number] for calls in reversed(self.steps.calls) for number in sorted(self.steps.varying, reverse=True)]
        within = set(gone)
        for mark in self.graph.find_nodes(op="call_function", target=STEP_ENDS):
            count, number, made = mark.args
            mark.args = (count, number, [one for one in made if one not in within])  # type: ignore[union-attr]
        for node in [*self.steps.ends, *gone]:
            self.graph.erase_node(node)


def _referring(held: Called, known: dict[Any, Ref]) -> tuple[Any, Any]:
    """The arguments of a call in a body."""
    return pytree.tree_map(  # type: ignore[no-any-return]
        lambda one: known.get(one, one) if isinstance(one, Made | Carried | fx.Node) else one, (held.args, held.kwargs)
    )


def _after(carried: Carried) -> Made:
    return Made(carried.number)


def _is_of_loops(node: fx.Node) -> bool:
    return node.target in (STEP_ENDS, GATHERED_STEPS)
