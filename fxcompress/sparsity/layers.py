"""Layers whose weights can be masked one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxcompress.ir.dialect import resolve
from fxcompress.ir.signature import arguments, operation
from fxcompress.masks.mask import source_constant

_TRANSPOSE = resolve("transpose")
_INPUT_AXIS = {"linear": 1, "matmul": 0, "mm": 0}
_INPUT_AXIS |= {f"conv{d}d": 1 for d in (1, 2, 3)} | {f"conv_transpose{d}d": 0 for d in (1, 2, 3)}


@dataclass(frozen=True)
class WeightedLayer:
    """A convolution, linear layer or product with a constant.

    Attributes:
        node: the operation; the first one where several read the weight.
        constant: the weight, without the masks and quantizers that may stand behind it.
        input_axis: the axis of the weight that counts inputs.
    """

    node: fx.Node
    constant: fx.Node
    input_axis: int


def weighted_layers(graph: fx.Graph) -> list[WeightedLayer]:
    """The layers of `graph` with a weight of two or more dimensions, in its order, each weight once."""
    found: dict[str, WeightedLayer] = {}
    for node in graph.nodes:
        axis = _INPUT_AXIS.get(operation(node)) if node.op == "call_function" else None
        if axis is None:
            continue
        weight = _weight(node)
        if weight.target is _TRANSPOSE and weight.meta["val"].dim() == 2:
            weight, axis = weight.args[0], 1 - axis
        constant = source_constant(weight)
        if constant is not None and constant.meta["val"].dim() > 1:
            found.setdefault(str(constant.target), WeightedLayer(node, constant, axis))
    return list(found.values())


def computed_weights(graph: fx.Graph) -> list[fx.Node]:
    """The layers of `graph` whose weight is computed from constants alone: normalized, standardized, a sum of adapters."""
    constant: set[fx.Node] = set()  # what depends on no input
    for node in graph.nodes:
        reads = node.all_input_nodes
        if node.op == "get_attr" or (reads and node.op != "output" and constant.issuperset(reads)):
            constant.add(node)
    calls = [node for node in graph.nodes if node.op == "call_function" and operation(node) in _INPUT_AXIS]
    known = {layer.node for layer in weighted_layers(graph)}
    return [
        node
        for node in calls
        if node not in constant and node not in known and _weight(node) in constant and not _is_constant(_weight(node))
    ]


def _weight(node: fx.Node) -> fx.Node:
    return arguments(node)["weight"] if "weight" in arguments(node) else node.args[1]  # type: ignore[return-value]


def _is_constant(weight: fx.Node) -> bool:
    """Whether it is a constant, or the transpose of one."""
    return source_constant(weight.args[0] if weight.target is _TRANSPOSE else weight) is not None  # type: ignore[arg-type]
