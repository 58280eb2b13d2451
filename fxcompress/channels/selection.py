"""Which filters to do without: so many of them, or so many that a share of the computation goes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from fxcompress.channels.clusters import CRITERIA, Cluster, importance
from fxcompress.channels.dependencies import Channels
from fxcompress.errors import InputError, apart, did_you_mean
from fxcompress.ir.cost import Cost, cost, sizes_of
from fxcompress.options import Declared


@dataclass(frozen=True)
class LearnedRanking(Declared):
    """All filters in one ranking, in which the importance s of those of a cluster counts as ``scale * s + shift``.

    Chin et al., "Towards Efficient Model Compression via Learned Global Ranking", arXiv 1904.12368, equation 3. See
    `fxcompress.training.learn_ranking`.

    Attributes:
        coefficients: scale and shift of each cluster, by its name (`cluster_names`); those not named count as they are.
    """

    coefficients: Mapping[str, tuple[float, float]]

    def applied(self, groups: Sequence[Cluster], scores: Sequence[Tensor]) -> list[Tensor]:
        """The importances `scores` of the elements of each cluster as they count.

        Raises:
            InputError: a cluster is named that there is not.
        """
        names = cluster_names(groups)
        for name in self.coefficients:
            if name not in names:
                raise InputError(f"the ranking was learned for a cluster {name!r} that there is not{did_you_mean(name, names)}")
        factors = [self.coefficients.get(name, (1.0, 0.0)) for name in names]
        return [scale * score + shift for (scale, shift), score in zip(factors, scores)]


Ranking = Literal["uniform", "global"] | LearnedRanking


def cluster_names(groups: Sequence[Cluster]) -> list[str]:
    """A name for each cluster: that of its first layer, numbered where several begin with the same."""
    seen: Counter[str] = Counter()
    names = []
    for cluster in groups:
        first = next(iter(cluster.places)).node.name
        seen[first] += 1
        names.append(first if seen[first] == 1 else f"{first}#{seen[first]}")
    return names


@dataclass(frozen=True)
class Selection:
    """How filters are chosen.

    Attributes:
        criterion: the importance of a filter, a key of `fxcompress.channels.clusters.CRITERIA`.
        ranking: ``"uniform"`` takes the same share of each cluster; the others rank the filters of all of them.
        multiple: so many filters, or a multiple, are kept of each cluster, rounded up.
        of_computation: a level is a share of the multiply-adds, not of the filters.
    """

    criterion: str
    ranking: Ranking
    multiple: int
    of_computation: bool = False

    def choose(self, channels: Channels, groups: Sequence[Cluster], level: float) -> set[int]:
        """The sets of channels to mask at `level`, from the weights as they are.

        Raises:
            InputError: so large a share of the multiply-adds cannot be removed.
        """
        scores = [importance(channels, cluster, CRITERIA[self.criterion]) for cluster in groups]
        if isinstance(self.ranking, LearnedRanking):
            scores = self.ranking.applied(groups, scores)
        return self._choose(channels, groups, scores, level)

    def _choose(self, channels: Channels, groups: Sequence[Cluster], scores: Sequence[Tensor], level: float) -> set[int]:
        """The importance of each element of each cluster being `scores`."""
        if not self.of_computation or level == 0:
            return self._lowest(groups, scores, level)
        whole = cost(channels.graph_module).multiply_adds

        def share(amount: float) -> float:
            chosen = self._lowest(groups, scores, amount)
            return 1 - cost_without(channels, chosen).multiply_adds / max(whole, 1)

        low, high = 0.0, math.nextafter(1.0, 0.0)
        if share(high) < level:
            most, asked = apart(share(high), level, ".1%")
            raise InputError(
                f"at most {most} of the multiply-adds can be removed, not {asked}; "
                "ask for less, or have fewer layers ignored and a smaller multiple"
            )
        for _ in range(24):  # more than there are filters to tell apart
            middle = (low + high) / 2
            low, high = (low, middle) if share(middle) >= level else (middle, high)
        return self._lowest(groups, scores, high)

    def _lowest(self, groups: Sequence[Cluster], scores: Sequence[Tensor], amount: float) -> set[int]:
        """The `amount` of the elements that score lowest."""
        if self.ranking == "uniform":
            counts = [math.floor(len(cluster.elements) * amount) for cluster in groups]
        else:
            counts = _lowest_of_all(groups, scores, amount)
        chosen: set[int] = set()
        for cluster, score, count in zip(groups, scores, counts):
            total, step = len(cluster.elements), cluster.step(self.multiple)
            kept = max(math.ceil((total - count) / step), 1) * step
            for index in score.argsort(stable=True)[: max(total - kept, 0)].tolist():
                chosen.add(cluster.elements[index])
        return chosen


def _lowest_of_all(groups: Sequence[Cluster], scores: Sequence[Tensor], amount: float) -> list[int]:
    """How many elements of each cluster are among the `amount` of all filters that score lowest."""
    if not groups:
        return []
    owner = torch.cat([torch.full((len(score),), index) for index, score in enumerate(scores)])
    width = torch.tensor([cluster.width() for cluster in groups])[owner]
    order = torch.cat([score.cpu() for score in scores]).argsort(stable=True)
    lowest = order[width[order].cumsum(0) <= amount * width.sum()]
    return owner[lowest].bincount(minlength=len(groups)).tolist()


def cost_without(channels: Channels, chosen: Collection[int]) -> Cost:
    """What the graph would cost without the sets of channels `chosen`."""

    def sizes(node: fx.Node) -> list[int]:
        left = []
        for size, ids in zip(sizes_of(node), channels.of(node)):
            kept = sum(channels.elements.find(one) not in chosen for one in ids) if ids else 1
            left.append(size * kept // len(ids) if ids else size)
        return left

    return cost(channels.graph_module, sizes)
