"""What quantizers a graph holds, and which operations read through them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import fx

from fxcompress.ir.edit import called
from fxcompress.ir.reach import reached
from fxcompress.masks.mask import source_constant
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets.table import Target


@dataclass(frozen=True)
class Layer:
    """An operation that reads values through quantizers.

    Attributes:
        node: the operation.
        weights, activations: the quantizer calls that it reads through, of constants and of computed values.
        cone: in the order of the graph, those calls and the operations between them and `node`, which only move values.
    """

    node: fx.Node
    weights: tuple[fx.Node, ...]
    activations: tuple[fx.Node, ...]
    cone: tuple[fx.Node, ...]


def quantizer_of(graph_module: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The quantizer that `node` calls; None where it is something else."""
    return called(graph_module, node, Quantizer)


def quantizer_calls(graph_module: fx.GraphModule) -> dict[fx.Node, Quantizer]:
    """Every call of a quantizer, in the order of the graph."""
    calls = graph_module.graph.find_nodes(op="call_module")
    return {node: found for node in calls if (found := quantizer_of(graph_module, node))}


def serves_weight(call: fx.Node) -> bool:
    """Whether the quantizer `call` rounds the weight of a layer: a constant, maybe masked, that is no layer's input."""
    return source_constant(call) is not None and not call.meta.get("activation", False)


@contextmanager
def activations_in_float(graph_module: fx.GraphModule) -> Iterator[None]:
    """Let the quantizers of activations return their inputs unchanged."""
    with _switched_off(quantizer for call, quantizer in quantizer_calls(graph_module).items() if not serves_weight(call)):
        yield


@contextmanager
def in_float(graph_module: fx.GraphModule) -> Iterator[None]:
    """Let all quantizers return their inputs unchanged."""
    with _switched_off(quantizer_calls(graph_module).values()):
        yield


@contextmanager
def _switched_off(quantizers: Iterable[Quantizer]) -> Iterator[None]:
    switched = {quantizer for quantizer in quantizers if quantizer.enabled}
    for quantizer in switched:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in switched:
            quantizer.enabled = True


def moves_values(node: fx.Node, target: Target) -> bool:
    """Whether `node` only moves values, so that a quantizer in front of it is as good as one behind it."""
    return node.target is operator.getitem or node.target in target.transparent or node.target in target.joining


def quantized_layers(graph_module: fx.GraphModule, target: Target) -> list[Layer]:
    """The operations that read quantized values, maybe moved on the way, in the order of the graph."""
    calls = quantizer_calls(graph_module)
    ranks = {node: rank for rank, node in enumerate(graph_module.graph.nodes)}
    layers = []
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or moves_values(node, target):
            continue
        if cone := _cone(node, ranks, calls, target):
            read = [met for met in cone if met in calls]
            weights = tuple(filter(serves_weight, read))
            layers.append(Layer(node, weights, tuple(call for call in read if call not in weights), tuple(cone)))
    return layers


def _cone(node: fx.Node, ranks: dict[fx.Node, int], calls: dict[fx.Node, Quantizer], target: Target) -> list[fx.Node]:
    """What `node` reads and what is above that, up to the quantizers, in order; not what no quantizer is above of."""

    def above(value: fx.Node) -> list[fx.Node]:
        return value.all_input_nodes if value not in calls and moves_values(value, target) else []

    cone: dict[fx.Node, None] = {}
    for value in sorted(reached(node.all_input_nodes, above), key=ranks.__getitem__):
        if value in calls or not cone.keys().isdisjoint(above(value)):
            cone[value] = None
    return list(cone)
