"""Which filters can be removed, in clusters that are ranked together, and how important each is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxcompress.channels.dependencies import Channels, Layer
from fxcompress.ir.edit import value_of
from fxcompress.masks.mask import source_constant


@dataclass
class Cluster:
    """Filters of layers whose channels belong together: one of each layer (or several) is removed with one of the others.

    Attributes:
        elements: what stands for each set of channels that is removed as one.
        places: for each layer, which of its filters each element stands for.
    """

    elements: list[int] = field(default_factory=list)
    places: dict[Layer, list[list[int]]] = field(default_factory=dict)

    def width(self) -> int:
        """Filters that go with one element, over all layers, on average."""
        return max(1, round(sum(len(one) for of_layer in self.places.values() for one in of_layer) / len(self.elements)))

    def step(self, multiple: int) -> int:
        """Elements to keep at a time, so that each layer keeps a multiple of `multiple` filters."""
        return math.lcm(*(multiple // math.gcd(multiple, len(of_layer[0])) for of_layer in self.places.values()))


def clusters(channels: Channels) -> list[Cluster]:
    """The filters that can be removed.

    One cluster holds the channels that lie in the same axes of weights and values: so what a split or a concatenation
    treats differently is ranked apart, and no part of it can vanish as a whole.
    """
    elements = channels.elements
    held_by: dict[int, set[int]] = {}
    for number, ids in enumerate(channels.all_axes()):
        for one in ids:
            held_by.setdefault(elements.find(one), set()).add(number)
    found: dict[frozenset[int], Cluster] = {}
    position: dict[int, tuple[Cluster, int]] = {}
    for layer in channels.layers:
        for index, one in enumerate(layer.filters):
            if not elements.is_free(one):
                continue
            root = elements.find(one)
            if root not in position:
                cluster = found.setdefault(frozenset(held_by[root]), Cluster())
                position[root] = cluster, len(cluster.elements)
                cluster.elements.append(root)
            cluster, place = position[root]
            of_layer = cluster.places.setdefault(layer, [])
            while len(of_layer) <= place:
                of_layer.append([])
            of_layer[place].append(index)
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------- importance


def l1_norm(filters: Tensor) -> Tensor:
    """``sum |w|`` of each row. Li et al., "Pruning Filters for Efficient ConvNets", arXiv 1608.08710, section 3.1."""
    return filters.abs().sum(1)


def l2_norm(filters: Tensor) -> Tensor:
    """``sqrt(sum w^2)`` of each row. He et al., "Soft Filter Pruning", arXiv 1808.06866, equation 2 with p = 2."""
    return filters.square().sum(1).sqrt()


def geometric_median(filters: Tensor) -> Tensor:
    """The sum of distances to all rows, ``sum_j ||F_i - F_j||``: small for what the others can stand in for.

    He et al., "Filter Pruning via Geometric Median", arXiv 1811.00250, equation 6.
    """
    exact = filters.double()  # the quick way to compute distances cancels digits
    return torch.cdist(exact, exact, compute_mode="use_mm_for_euclid_dist").sum(1)


CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {"l1": l1_norm, "l2": l2_norm, "geometric_median": geometric_median}
"""The importance of each filter of a layer, given as the rows of a matrix."""


def importance(channels: Channels, cluster: Cluster, criterion: Callable[[Tensor], Tensor]) -> Tensor:
    """The importance of each element of `cluster`, from the weights as they are behind their masks: ``[elements]``.

    In each layer the filters' importances are divided by their root mean square over the layer, so that layers of different
    sizes compare (after Molchanov et al., arXiv 1611.06440, section 2.2, who divide by the root of the sum). An element's
    importance is the mean over the layers of its filters' mean.
    """
    scores = []
    for layer, places in cluster.places.items():
        weight = value_of(channels.graph_module, source_constant(layer.weight)).float()
        each = criterion(weight.movedim(layer.axis, 0).flatten(1))
        each = each / each.square().mean().sqrt().clamp_min(torch.finfo(each.dtype).tiny)
        scores.append(torch.stack([each[place].mean() for place in places]))
    return torch.stack(scores).mean(0)
