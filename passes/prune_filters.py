"""Choose filters to do without, and mask them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from fxcompress.channels import Channels, analyze
from fxcompress.channels.clusters import CRITERIA, Cluster, clusters, importance
from fxcompress.channels.masking import mask_elements
from fxcompress.effect import Effect
from fxcompress.errors import InputError, did_you_mean
from fxcompress.pipeline import Context, Pass
from fxcompress.rewrite import Replacement
from fxcompress.scopes import Scope, select


@dataclass(frozen=True, kw_only=True)
class PruneFilters(Pass):
    """Mask the least important filters, so that the model computes as if they were gone; `RemoveFilters` removes them.

    Filters whose channels meet (behind an addition, a depthwise convolution, a concatenation, ...) are chosen together: see
    `fxcompress.channels`. Masked are the filters, their biases, the scale and shift of norms behind them, and the weights
    that read them, so that what lies between (a sigmoid of zero, say) does not matter.

    Args:
        amount: the share of filters to remove, 0 to 1; of each cluster, or with ``ranking="global"`` of all together.
        criterion: the importance of a filter, ``"l1"``, ``"l2"`` or ``"geometric_median"``
            (`fxcompress.channels.clusters.CRITERIA`); that of a set of filters is the mean over its layers
            (`fxcompress.channels.clusters.importance`).
        ranking: ``"uniform"`` takes the same share of each cluster, ``"global"`` ranks the filters of all of them.
        multiple: so many filters, or a multiple, are kept of each cluster, rounded up: vector units compute that many at a
            time. 1 for any number.
        ignored: scopes whose layers keep all filters (see `fxcompress.scopes.select`).

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
        InputError: an option cannot be used.
    """

    amount: float = 0.3
    criterion: str = "l2"
    ranking: Literal["uniform", "global"] = "uniform"
    multiple: int = 8
    ignored: Iterable[Scope] = ()

    effect: ClassVar[Effect] = Effect.LOSSY

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise InputError(f"PruneFilters needs an amount from 0 to below 1, got {self.amount!r}")
        if self.criterion not in CRITERIA:
            hint = did_you_mean(str(self.criterion), CRITERIA)
            raise InputError(f"there is no criterion {self.criterion!r}{hint}; there are {', '.join(map(repr, CRITERIA))}")
        if self.ranking not in ("uniform", "global"):
            raise InputError(f"ranking is 'uniform' or 'global', not {self.ranking!r}")
        if self.multiple < 1 or self.multiple != int(self.multiple):
            raise InputError(f"PruneFilters needs a multiple of 1 or more, got {self.multiple!r}")

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        ignored = select(graph_module.graph, self.ignored)
        channels = analyze(graph_module, lambda found: _keep(found, ignored))
        groups = clusters(channels)
        scores = [importance(channels, cluster, CRITERIA[self.criterion]) for cluster in groups]
        chosen = self._chosen(groups, scores)
        context.notes += [*_summary(channels, groups, chosen), *_pinned(channels)]
        masked = mask_elements(channels, chosen, self.name)
        return [Replacement.at(node) for node in masked]

    def _chosen(self, groups: list[Cluster], scores: list[Tensor]) -> set[int]:
        """The elements to mask."""
        if self.ranking == "uniform":
            counts = [math.floor(len(cluster.elements) * self.amount) for cluster in groups]
        else:
            counts = _lowest_of_all(groups, scores, self.amount)
        chosen: set[int] = set()
        for cluster, score, count in zip(groups, scores, counts):
            total, step = len(cluster.elements), cluster.step(self.multiple)
            kept = max(math.ceil((total - count) / step), 1) * step
            for index in score.argsort(stable=True)[: max(total - kept, 0)].tolist():
                chosen.add(cluster.elements[index])
        return chosen


def _lowest_of_all(groups: list[Cluster], scores: list[Tensor], amount: float) -> list[int]:
    """How many elements of each cluster are among the `amount` of all filters that score lowest."""
    if not groups:
        return []
    owner = torch.cat([torch.full((len(score),), index) for index, score in enumerate(scores)])
    width = torch.tensor([cluster.width() for cluster in groups])[owner]
    order = torch.cat(scores).argsort(stable=True)
    lowest = order[width[order].cumsum(0) <= amount * width.sum()]
    return owner[lowest].bincount(minlength=len(groups)).tolist()


def _keep(channels: Channels, ignored: set[fx.Node]) -> None:
    for layer in channels.layers:
        if layer.node in ignored:
            channels.pin(layer.filters, "they are ignored")


def _summary(channels: Channels, groups: list[Cluster], chosen: set[int]) -> list[str]:
    total = sum(len(layer.filters) for layer in channels.layers)
    free = sum(len(place) for cluster in groups for places in cluster.places.values() for place in places)
    gone = sum(channels.elements.find(one) in chosen for layer in channels.layers for one in layer.filters)
    return [f"{gone} of {total} filters are masked; {free} could be, in {len(groups)} cluster{'s' * (len(groups) != 1)}"]


def _pinned(channels: Channels) -> list[str]:
    """Why filters stay, and of which layers: a line a reason."""
    reasons: dict[str, list[str]] = {}
    for layer in channels.layers:
        held = [reason for one in layer.filters if (reason := channels.elements.reason(one)) is not None]
        if held:
            part = "" if len(held) == len(layer.filters) else f" ({len(held)} of {len(layer.filters)})"
            reasons.setdefault(held[0], []).append(f"{layer.node.name}{part}")
    return [f"the filters of {_listed(names)} stay: {reason}" for reason, names in reasons.items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more layers"
