"""Layers whose weights can be masked one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxcompress.ir.constants import constants, key_of
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
        constant: the weight (see `fxcompress.ir.constants`), without the masks and quantizers that may stand behind it.
        input_axis: the axis of the weight that counts inputs.
    """

    node: fx.Node
    constant: fx.Node
    input_axis: int


def weighted_layers(graph: fx.Graph) -> list[WeightedLayer]:
    """The layers of `graph` with a weight of two or more dimensions, in its order, each weight once."""
    found: dict[str, WeightedLayer] = {}
    inside = constants(graph)
    for node in graph.nodes:
        axis = _INPUT_AXIS.get(operation(node)) if node.op == "call_function" else None
        if axis is None or node in inside:
            continue
        weight = _weight(node)
        if weight.target is _TRANSPOSE and weight.meta["val"].dim() == 2:
            weight, axis = weight.args[0], 1 - axis
        constant = source_constant(weight)
        if constant is not None and constant.meta["val"].dim() > 1:
            found.setdefault(key_of(constant), WeightedLayer(node, constant, axis))
    return list(found.values())


def _weight(node: fx.Node) -> fx.Node:
    return arguments(node)["weight"] if "weight" in arguments(node) else node.args[1]  # type: ignore[return-value]
