"""The binarized convolutions of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from fxcompress.binarization.binarizers import ActivationBinarizer, WeightBinarizer
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import called

CONVOLUTION = resolve("conv2d")
"""What can be binarized."""


@dataclass(frozen=True)
class BinarizedLayer:
    """A convolution that reads its data and its weight through binarizers, enabled or not yet."""

    node: fx.Node
    activation: ActivationBinarizer
    weight: WeightBinarizer

    @property
    def is_binary(self) -> bool:
        """Whether both binarizers are enabled."""
        return self.activation.enabled and self.weight.enabled


def binarized_layers(graph_module: fx.GraphModule) -> Iterator[BinarizedLayer]:
    """The binarized convolutions of `graph_module`, in its order."""
    for node in graph_module.graph.find_nodes(op="call_function", target=CONVOLUTION):
        activation = called(graph_module, node.args[0], ActivationBinarizer)
        weight = called(graph_module, node.args[1], WeightBinarizer)
        if activation and weight:
            yield BinarizedLayer(node, activation, weight)
