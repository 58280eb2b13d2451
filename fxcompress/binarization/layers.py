"""The binarized convolutions of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, fx

from fxcompress.binarization.binarizers import ActivationBinarizer, Binarizer, WeightBinarizer
from fxcompress.builder import attribute
from fxcompress.dialect import resolve

CONVOLUTION = resolve("conv2d")
"""What can be binarized."""

Kind = TypeVar("Kind", bound=Binarizer)


@dataclass(frozen=True)
class BinarizedLayer:
    """A convolution that reads its data and its weight through binarizers, enabled or not yet."""

    node: fx.Node
    activation: ActivationBinarizer
    weight: WeightBinarizer

    @property
    def is_binary(self) -> bool:
        """Whether both binarizers are enabled."""
        return bool(self.activation.enabled) and bool(self.weight.enabled)


def binarized_layers(graph_module: fx.GraphModule) -> Iterator[BinarizedLayer]:
    """The binarized convolutions of `graph_module`, in its order."""
    for node in graph_module.graph.find_nodes(op="call_function", target=CONVOLUTION):
        activation = binarizer_of(graph_module, node.args[0], ActivationBinarizer)
        weight = binarizer_of(graph_module, node.args[1], WeightBinarizer)
        if activation and weight:
            yield BinarizedLayer(node, activation, weight)


def binarizer_of(graph_module: fx.GraphModule, node: fx.Node, kind: type[Kind]) -> Kind | None:
    """The binarizer of `kind` that `node` calls; None where it is something else."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, kind) else None


def constant_value(graph_module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The value of `node`, a constant or modules called on one; None where it is computed otherwise."""
    if node.op == "get_attr":
        return attribute(graph_module, str(node.target)).detach()
    if node.op != "call_module":
        return None
    value = constant_value(graph_module, node.args[0])  # type: ignore[arg-type]
    return None if value is None else graph_module.get_submodule(str(node.target))(value).detach()
