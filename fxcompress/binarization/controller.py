"""A training loop's hold on binarization."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import fx

from fxcompress.binarization.binarizers import Binarizer
from fxcompress.binarization.layers import BinarizedLayer, binarized_layers
from fxcompress.cost import multiply_adds
from fxcompress.training import CompressionStage, Controller, Scheduler, Statistics


class BinarizationScheduler(Scheduler):
    """Enables each binarizer when its epoch starts."""

    def __init__(self, binarizers: list[Binarizer]):
        super().__init__()
        self._binarizers = binarizers

    def epoch_step(self, epoch: int | None = None) -> None:
        super().epoch_step(epoch)
        for binarizer in self._binarizers:
            binarizer.reach(self.current_epoch)


class BinarizationController(Controller):
    """The binarized convolutions of `graph_module`. They need no loss of their own."""

    def __init__(self, graph_module: fx.GraphModule):
        self._graph_module = graph_module
        self._layers = list(binarized_layers(graph_module))
        self._binarizers = [one for layer in self._layers for one in (layer.activation, layer.weight)]
        super().__init__(BinarizationScheduler(self._binarizers))

    def compression_stage(self) -> CompressionStage:
        """How many binarizers are enabled: none, some or all."""
        enabled = {bool(binarizer.enabled) for binarizer in self._binarizers}
        if len(enabled) == 2:
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED if enabled == {True} else CompressionStage.UNCOMPRESSED

    def statistics(self) -> Statistics:
        """The multiply-adds of each layer for one sample, and how many of all are binarized."""
        binarized = {layer.node: layer for layer in self._layers}
        costs = {node: multiply_adds(node) for node in self._graph_module.graph.nodes}
        total = sum(costs.values())
        share = sum(costs[node] for node, layer in binarized.items() if layer.is_binary) / max(total, 1)
        title = f"Binarization: {share:.1%} of {total / 1e6:.4g} M multiply-adds"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("layer")
        for heading in ("multiply-adds", "share"):
            table.add_column(heading, justify="right")
        for heading in ("activation", "weight"):
            table.add_column(heading)
        for node, count in costs.items():
            if count:
                table.add_row(node.name, f"{count:,}", f"{count / total:.1%}", *_states(binarized.get(node)))
        return Statistics((table,))


def _states(layer: BinarizedLayer | None) -> tuple[str, str]:
    """What becomes of a layer's activation and weight."""
    if layer is None:
        return "", ""
    weight = type(layer.weight).__name__.removesuffix("Binarizer")
    return _state(layer.activation, f"0, {layer.activation.scale.item():.3g}"), _state(layer.weight, weight)


def _state(binarizer: Binarizer, told: str) -> str:
    return told if binarizer.enabled else f"from epoch {binarizer.start_epoch}"
