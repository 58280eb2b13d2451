"""Two traces of a model, in training and in inference, laid side by side: which call of one is which of the other.

A call in training is the call in inference that does the same to the same values. Where there is more than one such, or what it
reads is made in training only, the values that it was made of decide, and then the parameters that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.capture.constants import PREFIX
from fxcompress.ir.edit import attribute
from fxcompress.ir.modes import MODE_ARGUMENTS
from fxcompress.ir.signature import arguments, same_value


@dataclass(frozen=True)
class Edge:
    """The place `position` among the nodes that `reader`, of inference, reads; `training` is what training reads there."""

    reader: fx.Node
    position: int
    training: fx.Node


@dataclass
class Alignment:
    """The calls of `training` with their `partner` in `inference`.

    Attributes:
        edges: where a pair reads something that is no pair.
        sources: of each value that is made in training only, the pairs' values that it is made of.
    """

    inference: fx.GraphModule
    training: fx.GraphModule
    partner: dict[fx.Node, fx.Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    sources: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)

    @classmethod
    def of(cls, inference: fx.GraphModule, training: fx.GraphModule) -> Alignment:
        """Align `training` with `inference`, both in the dialect."""
        made = cls(inference, training)
        made._align()
        return made

    def only_in_inference(self) -> list[fx.Node]:
        """The calls of inference that training does not make."""
        taken = set(self.partner.values())
        return [node for node in self.inference.graph.nodes if node.op == "call_function" and node not in taken]

    @cached_property
    def reads(self) -> dict[str, list[fx.Node]]:
        """The reads of each parameter, buffer and constant of inference, by its name; equal constants are one."""
        found: dict[str, list[fx.Node]] = {}
        for node in self.inference.graph.find_nodes(op="get_attr"):
            name, held = str(node.target), attribute(self.inference, str(node.target))
            equal = (one for one in found if _is_constant(name, one) and _equal(held, attribute(self.inference, one)))
            found.setdefault(next(equal, name), []).append(node)
        return found

    @cached_property
    def _first_read(self) -> dict[fx.Node, fx.Node]:
        return {node: nodes[0] for nodes in self.reads.values() for node in nodes}

    @cached_property
    def _same_reads(self) -> dict[fx.Node, list[fx.Node]]:
        return {nodes[0]: nodes for nodes in self.reads.values()}

    def _align(self) -> None:
        order = {node: position for position, node in enumerate(self.inference.graph.nodes)}
        inputs = zip(*(module.graph.find_nodes(op="placeholder") for module in (self.training, self.inference)))
        self.partner.update(inputs)
        taken: set[fx.Node] = set()
        for node in self.training.graph.nodes:
            if node.op == "get_attr":
                found = self._attribute(node)
            elif node.op == "call_function":
                found = self._call(node, taken, order)
            else:
                continue
            if found is not None:
                self.partner[node] = found
                taken.add(found)
            else:
                self.sources[node] = set().union(*(self._sources(source) for source in node.all_input_nodes))
        for node, twin in [*self.partner.items(), (_output(self.training), _output(self.inference))]:
            if node.op in ("call_function", "output"):
                self._note_edges(node, twin)

    def _attribute(self, node: fx.Node) -> fx.Node | None:
        """The read of the same parameter or buffer, or of an equal constant: those are numbered in each trace by itself."""
        name = str(node.target)
        if not name.startswith(PREFIX):
            return next(iter(self.reads.get(name, ())), None)
        held = attribute(self.training, name)
        equal = (one for one in self.reads if _is_constant(name, one) and _equal(held, attribute(self.inference, one)))
        return next((self.reads[one][0] for one in equal), None)

    def _call(self, node: fx.Node, taken: set[fx.Node], order: dict[fx.Node, int]) -> fx.Node | None:
        if node.all_input_nodes:
            readers = {user for source in node.all_input_nodes for one in self._sources(source) for user in self._readers(one)}
        else:
            readers = set(self.inference.graph.find_nodes(op="call_function", target=node.target))
        candidates = sorted((r for r in readers if r.target is node.target and r not in taken), key=order.__getitem__)
        for agree in (self._is_pair, self._comes_of, self._same_parameter):
            for candidate in candidates:
                if self._agrees(node, candidate, agree):
                    return candidate
        return None

    def _readers(self, node: fx.Node) -> Iterator[fx.Node]:
        for one in self._same_reads.get(node, [node]):
            yield from one.users

    def _sources(self, node: fx.Node) -> set[fx.Node]:
        return {self.partner[node]} if node in self.partner else self.sources.get(node, set())

    def _is_pair(self, training: fx.Node, inference: fx.Node) -> bool:
        return self.partner.get(training) is self._first_read.get(inference, inference)

    def _comes_of(self, training: fx.Node, inference: fx.Node) -> bool:
        return self._is_pair(training, inference) or (training not in self.partner and inference in self._sources(training))

    def _same_parameter(self, training: fx.Node, inference: fx.Node) -> bool:
        return self._is_pair(training, inference) or "get_attr" not in (training.op, inference.op)

    def _agrees(self, node: fx.Node, candidate: fx.Node, agree: Callable[[fx.Node, fx.Node], bool]) -> bool:
        ours, theirs = arguments(node), arguments(candidate)
        read = [source for source in node.all_input_nodes if source.op == "get_attr"]
        if agree == self._same_parameter and not read:
            return False
        names = [name for name in ours if name not in MODE_ARGUMENTS and name != "dropout_p"]
        return all(_same(ours[name], theirs[name], agree) for name in names)

    def _note_edges(self, node: fx.Node, twin: fx.Node) -> None:
        ours, theirs = _nodes_of(node), _nodes_of(twin)
        if len(ours) == len(theirs):
            self.edges += [
                Edge(twin, position, training)
                for position, (training, inference) in enumerate(zip(ours, theirs))
                if not self._is_pair(training, inference)
            ]


def _same(ours: Any, theirs: Any, agree: Callable[[fx.Node, fx.Node], bool]) -> bool:
    if isinstance(ours, fx.Node) and isinstance(theirs, fx.Node):
        return agree(ours, theirs)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(_same(a, b, agree) for a, b in zip(ours, theirs))
    return same_value(ours, theirs) or (type(ours) is type(theirs) and ours == theirs)


def _nodes_of(node: fx.Node) -> list[fx.Node]:
    """What `node` reads, as often as it does, in the order of its arguments."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def _output(module: fx.GraphModule) -> fx.Node:
    return module.graph.find_nodes(op="output")[0]


def _is_constant(*names: str) -> bool:
    return all(name.startswith(PREFIX) for name in names)


def _equal(left: Any, right: Any) -> bool:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return left is right
    return left.shape == right.shape and left.dtype == right.dtype and torch.equal(left, right)
