"""The training loop's hold on pruned filters: masks that follow a schedule, and what is left of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.table import Table
from torch import fx

from fxcompress.channels import Channels, analyze
from fxcompress.channels.clusters import clusters
from fxcompress.channels.masking import element_masks
from fxcompress.channels.products import Parts
from fxcompress.channels.selection import Selection, cost_without
from fxcompress.ir.cost import cost, readable_count
from fxcompress.masks.mask import Mask, source_constant
from fxcompress.report.tables import titled
from fxcompress.training.controller import Statistics
from fxcompress.training.level_controller import LevelController
from fxcompress.training.levels import Schedule


class FilterController(LevelController):
    """Masks filters anew whenever the level changes, and leaves the masks alone until then.

    Importance is that of the weights behind the masks, which keep the values that they had when they were masked: a filter
    that was masked early comes back if others have become less important than it.

    Args:
        masks: by the constants behind them.
        parts: what was decided on split axes when the masks were made (see `Products.resolve`).

    Attributes:
        selection: how filters are chosen.
        channels, clusters: what there is to choose from.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        masks: Mapping[fx.Node, Mask],
        selection: Selection,
        schedule: Schedule | None,
        target: float,
        parts: Parts | None = None,
    ):
        super().__init__(schedule, target)
        self.selection, self._masks = selection, dict(masks)
        self.channels = analyze(graph_module, self._pin_what_has_no_mask, parts)
        self.clusters = clusters(self.channels)

    def _pin_what_has_no_mask(self, channels: Channels) -> None:
        for weight in channels.weights:
            mask = self._mask_of(weight)
            for axis, ids in enumerate(channels.of(weight)):
                if ids is not None and (mask is None or mask.mask.shape[axis] == 1):
                    channels.pin(ids, "its weight has no mask")

    def _mask_of(self, weight: fx.Node) -> Mask | None:
        constant = source_constant(weight)
        return None if constant is None else self._masks.get(constant)

    @torch.no_grad()
    def apply(self, level: float) -> None:
        removable = {one for cluster in self.clusters for one in cluster.elements}
        chosen = self.selection.choose(self.channels, self.clusters, level)
        for constant, mask in element_masks(self.channels, removable, chosen).items():
            self._masks[constant].mask.copy_(mask)
        self.note(self._masks.values())

    def masked(self) -> set[int]:
        """The sets of channels that are masked, as `Elements.find` gives them."""
        gone = set()
        for cluster in self.clusters:
            layer, places = next(iter(cluster.places.items()))
            mask = self._mask_of(layer.weight)
            if mask is not None:
                used = (mask.mask != 0).movedim(layer.axis, 0).flatten(1).any(1).tolist()
                gone |= {one for one, place in zip(cluster.elements, places) if not used[place[0]]}
        return gone

    def reached(self) -> float:
        """The share of the filters that is masked, or of the multiply-adds that goes with them."""
        if self.selection.of_computation:
            whole = cost(self.channels.graph_module).multiply_adds
            return 1 - cost_without(self.channels, self.masked()).multiply_adds / max(whole, 1)
        gone = self.masked()
        total = sum(cluster.width() * len(cluster.elements) for cluster in self.clusters)
        return sum(c.width() * sum(one in gone for one in c.elements) for c in self.clusters) / max(total, 1)

    def statistics(self) -> Statistics:
        """A table of layers with the filters they keep, and one of the model's multiply-adds, parameters and filters."""
        gone = self.masked()
        return Statistics((self._layer_table(gone), self._model_table(gone)))

    def _layer_table(self, gone: set[int]) -> Table:
        table = titled("Filters by layer", "layer", "cluster", "filters", "kept", numbers=("cluster", "filters", "kept"))
        number = {layer: position for position, cluster in enumerate(self.clusters, 1) for layer in cluster.places}
        for layer in self.channels.layers:
            kept = sum(self.channels.elements.find(one) not in gone for one in layer.filters)
            table.add_row(layer.node.name, str(number.get(layer, "-")), str(len(layer.filters)), str(kept))
        return table

    def _model_table(self, gone: set[int]) -> Table:
        headings = "", "whole", "left", "removed"
        table = titled("The model without masked filters", *headings, numbers=headings[1:])
        before, after = cost(self.channels.graph_module), cost_without(self.channels, gone)
        filters = [one for layer in self.channels.layers for one in layer.filters]
        left = sum(self.channels.elements.find(one) not in gone for one in filters)
        for name, whole, kept in (
            ("multiply-adds", before.multiply_adds, after.multiply_adds),
            ("parameters", before.parameters, after.parameters),
            ("filters", len(filters), left),
        ):
            table.add_row(name, readable_count(whole), readable_count(kept), f"{1 - kept / max(whole, 1):.1%}")
        return table
