"""A training loop's hold on binarization."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxcompress.binarization.binarizers import ActivationBinarizer, WeightBinarizer
from fxcompress.binarization.layers import BinarizedLayer
from fxcompress.ir.cost import multiply_adds
from fxcompress.report.tables import titled
from fxcompress.training.controller import Statistics
from fxcompress.training.staged import StagedController


class BinarizationController(StagedController):
    """The binarized convolutions `layers` of `graph_module`. They need no loss of their own.

    Attributes:
        weights, activations: the binarizers of weights and of what is read, by name.
    """

    weights: dict[str, WeightBinarizer]  # type: ignore[assignment]
    activations: dict[str, ActivationBinarizer]  # type: ignore[assignment]

    def __init__(
        self,
        graph_module: fx.GraphModule,
        layers: Sequence[BinarizedLayer],
        *,
        weights_start_epoch: int = 0,
        activations_start_epoch: int = 0,
    ):
        self._graph_module, self._layers = graph_module, {layer.node: layer for layer in layers}
        activations, weights = ({str(layer.node.args[i].target): layer for layer in layers} for i in (0, 1))
        super().__init__(
            {name: layer.weight for name, layer in weights.items()},
            {name: layer.activation for name, layer in activations.items()},
            weights_start_epoch,
            activations_start_epoch,
        )

    def statistics(self) -> Statistics:
        """The multiply-adds of each layer for one sample, and how many of all are binarized."""
        costs = {node: multiply_adds(node) for node in self._graph_module.graph.nodes}
        total = sum(costs.values())
        share = sum(costs[node] for node, layer in self._layers.items() if layer.is_binary) / max(total, 1)
        title = f"Binarization: {share:.1%} of {total / 1e6:.4g} M multiply-adds"
        table = titled(title, "layer", "multiply-adds", "share", "activation", "weight", numbers=("multiply-adds", "share"))
        for node, count in costs.items():
            if count:
                table.add_row(node.name, f"{count:,}", f"{count / total:.1%}", *_states(self._layers.get(node)))
        return Statistics((table,))


def _states(layer: BinarizedLayer | None) -> tuple[str, str]:
    """What becomes of a layer's activation and weight."""
    if layer is None:
        return "", ""
    activation = f"0, {layer.activation.scale.item():.3g}" if layer.activation.enabled else "off"
    return activation, type(layer.weight).__name__.removesuffix("Binarizer") if layer.weight.enabled else "off"
