"""Where quantizers go: from a target's table and a graph to the edges that carry integers.

Demand starts at the operations that the target executes in integers, and travels against the data flow: through
operations that only move values, into the parts of a concatenation (which then share one scale), and across
elementwise operations whose own result is quantized. It stops at the value that was computed; one quantizer there serves
every consumer that asked.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import networkx as nx
import torch
from torch import fx

from fxcompress.dialect import resolve
from fxcompress.targets.table import Target, Weighted

TRANSPOSE = resolve("transpose")


@dataclass(frozen=True)
class ActivationSite:
    """A quantizer on the value of `producer`, read by `consumers`; sites of one `group` share a scale."""

    producer: fx.Node
    consumers: tuple[fx.Node, ...]
    group: str


@dataclass(frozen=True)
class WeightSite:
    """A quantizer on the constant `weight`, read by `consumers`, with one scale an index of `channel_axis`."""

    weight: fx.Node
    consumers: tuple[fx.Node, ...]
    channel_axis: int


@dataclass
class Placement:
    """All sites of a graph in topological order, and the operations left in float, with the reason."""

    activations: list[ActivationSite] = field(default_factory=list)
    weights: list[WeightSite] = field(default_factory=list)
    left_in_float: dict[fx.Node, str] = field(default_factory=dict)


def place(graph: fx.Graph, target: Target, ignored: Collection[fx.Node] = ()) -> Placement:
    """Decide every site in `graph` for `target`; operations in `ignored` stay in float."""
    return _Placer(graph, target, ignored).place()


class _Placer:
    def __init__(self, graph: fx.Graph, target: Target, ignored: Collection[fx.Node]):
        self.graph, self.target, self.ignored = graph, target, set(ignored)
        self.demands: dict[fx.Node, set[fx.Node]] = {}  # value -> the users that want it quantized
        self.weights: dict[tuple[fx.Node, int], list[fx.Node]] = {}
        self.same_scale = nx.Graph()  # an edge between values that hold the same numbers, or parts of them
        self.left: dict[fx.Node, str] = {}

    def place(self) -> Placement:
        for node in reversed(self.graph.nodes):  # every reader of a value is visited before the value
            if node.op == "call_function" and node not in self.ignored:
                self._visit(node)
        ranks = {node: rank for rank, node in enumerate(self.graph.nodes)}
        sites = []
        for producer in sorted(self.demands, key=ranks.__getitem__):
            kin = nx.node_connected_component(self.same_scale, producer) if producer in self.same_scale else {producer}
            first = min(kin & self.demands.keys(), key=ranks.__getitem__)
            sites.append(ActivationSite(producer, tuple(sorted(self.demands[producer], key=ranks.__getitem__)), first.name))
        weights = [WeightSite(weight, tuple(users), axis) for (weight, axis), users in self.weights.items()]
        return Placement(sites, sorted(weights, key=lambda site: ranks[site.weight]), self.left)

    def _visit(self, node: fx.Node) -> None:
        target = self.target
        exception = target.exceptions.get(node.target, lambda node: None)(node)
        if exception:
            self.left[node] = exception
        elif node.target in target.weighted:
            self._visit_weighted(node, target.weighted[node.target])
        elif node.target in target.products:
            self._demand_all(node, target.products[node.target])
        elif node.target in target.elementwise:
            if self._result_is_quantized(node) and not self._is_fused(node):
                self._demand_all(node, target.elementwise[node.target])
        elif node.target in target.transparent or node.target in target.joining:
            self._pass_through(node)

    def _visit_weighted(self, node: fx.Node, how: Weighted) -> None:
        data, weight = node.args[how.data], node.args[how.weight]
        reader, axis = node, how.channel_axis
        if isinstance(weight, fx.Node) and weight.target is TRANSPOSE and weight.meta["val"].dim() == 2:
            reader, weight, axis = weight, weight.args[0], 1 - axis
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            self.left[node] = "its weight is computed by the graph, not a constant"
        elif not _is_float(data):
            self.left[node] = "its input is not a float tensor"
        else:
            self._demand(data, node)
            readers = self.weights.setdefault((weight, axis), [])
            if reader not in readers:
                readers.insert(0, reader)

    def _demand_all(self, node: fx.Node, positions: tuple[int, ...]) -> None:
        """Quantize all operands, or none: a kernel with one float operand is not an integer kernel."""
        operands = [node.args[i] for i in positions]
        if all(_is_float(o) and not _is_constant(o) for o in operands):
            for operand in operands:
                self._demand(operand, node)

    def _demand(self, value: fx.Node, user: fx.Node) -> None:
        self.demands.setdefault(value, set()).add(user)

    def _pass_through(self, node: fx.Node) -> None:
        """Move the demand on what `node` puts out, where all readers share it, to what it takes in."""
        parts = [user for user in node.users if user.target is operator.getitem] or [node]
        if not all(map(self._is_wanted, parts)):
            return
        for part in parts:
            del self.demands[part]
        sources = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
        for source in sources:
            self._demand(source, node)
        self.same_scale.add_edges_from((node, value) for value in (*parts, *sources) if value is not node)

    def _is_wanted(self, value: fx.Node) -> bool:
        """Whether every reader of `value` wants it quantized."""
        return bool(value.users) and self.demands.get(value, set()) == value.users.keys()

    def _is_fused(self, node: fx.Node) -> bool:
        """Whether `node` runs inside the kernel that computes its input."""
        target, source = self.target, node.args[0]
        heads = target.weighted.keys() | target.products.keys() | target.elementwise.keys()
        return node.target in target.fused and source.target in heads and len(source.users) == 1

    def _result_is_quantized(self, node: fx.Node) -> bool:
        """Whether what `node` computes is wanted, after the operations that are fused to it."""
        *_, last = fused_chain(node, self.target.fused - {n.target for n in self.ignored})
        return self._is_wanted(last)


def fused_chain(node: fx.Node, fused: Collection[object]) -> Iterator[fx.Node]:
    """`node`, then each operation of `fused` that alone reads the one before it."""
    yield node
    while len(node.users) == 1 and (node := next(iter(node.users))).target in fused:
        yield node


def _is_float(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return False
    tensor = value.meta.get("val")
    return isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _is_constant(value: object) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"
