"""Choose filters to do without, and mask them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch import fx
from torch._ops import OpOverload

from fxcompress.channels import Channels, analyze
from fxcompress.channels.clusters import CRITERIA, Cluster, clusters
from fxcompress.channels.counting import count_all, count_channels
from fxcompress.channels.masking import element_masks
from fxcompress.channels.selection import Ranking, Selection
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError
from fxcompress.ir.cost import first_layers
from fxcompress.ir.dialect import resolve
from fxcompress.ir.parameters import by_reason, untreated
from fxcompress.ir.signature import argument, signature
from fxcompress.ir.training_ops import MASKED_BATCH_NORM
from fxcompress.masks.mask import FilterMask
from fxcompress.options import OneOf
from fxcompress.pattern.scopes import Scope, left_alone
from fxcompress.report.units import listed
from fxcompress.rewrite.rule import Replacement
from fxcompress.sparsity.insertion import mask_weights, masks_of
from fxcompress.targets import Target
from fxcompress.training.filters import FilterController
from fxcompress.training.levels import Schedule, check_schedule


@dataclass(frozen=True, kw_only=True)
class PruneFilters(Pass):
    """Mask the least important filters, so that the model computes as if they were gone; `RemoveFilters` removes them.

    Filters whose channels meet (behind an addition, a depthwise convolution, a concatenation, ...) are chosen together: see
    `fxcompress.channels`. Masked are the filters, their biases, the scale and shift of norms behind them, and the weights
    that read them, so that what lies between (a sigmoid of zero, say) does not matter.

    Args:
        amount: the share of filters to remove, 0 to 1; of each cluster, or with ``ranking="global"`` of all together. 0.3
            unless `flops` is given.
        flops: the share of the multiply-adds to remove, in place of `amount`: as few filters go as do that.
        criterion: the importance of a filter, ``"l1"``, ``"l2"`` or ``"geometric_median"``
            (`fxcompress.channels.clusters.CRITERIA`); that of a set of filters is the mean over its layers
            (`fxcompress.channels.clusters.importance`).
        ranking: ``"uniform"`` takes the same share of each cluster, ``"global"`` ranks the filters of all of them, and so
            does a `LearnedRanking` (`fxcompress.training.learn_ranking`).
        multiple: so many filters, or a multiple, are kept of each cluster, rounded up: vector units compute that many at a
            time, integer kernels more (`Target.filter_multiple`). 1 for any number.
        scopes: remove filters of the layers in these scopes alone (see `fxcompress.scopes.select`); None for all.
        ignored: scopes whose layers keep all filters (see `fxcompress.scopes.select`).
        first: also remove filters of the layers that no other comes before.
        downsampling: also remove those of convolutions with a stride.
        summed: also remove channels that are summed over: the width that layer norms see, that of attention heads, what a
            mean over channels reads. From then on such a sum, and its count, is of the channels that are left.
        schedule: how training gets to `amount` or `flops` (see `fxcompress.training.levels`); None for all at once.

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
        InputError: an option cannot be used, or so large a share of the multiply-adds cannot be removed.
    """

    amount: Annotated[float, Ge(0), Lt(1)] | None = None
    flops: Annotated[float, Ge(0), Lt(1)] | None = None
    criterion: Annotated[str, OneOf(CRITERIA)] = "l2"
    ranking: Ranking = "uniform"
    multiple: Annotated[int, Ge(1)] = 8
    scopes: Iterable[Scope] | None = None
    ignored: Iterable[Scope] = ()
    first: bool = True
    downsampling: bool = True
    summed: bool = False
    schedule: Schedule | None = None

    effect: ClassVar[Effect] = Effect.LOSSY

    def __post_init__(self) -> None:
        if self.amount is not None and self.flops is not None:
            raise InputError("PruneFilters is given an amount of filters or of flops, not both")
        check_schedule(self.schedule, self._target)

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        graph = graph_module.graph
        kept = dict.fromkeys(left_alone(graph, self.ignored, self.scopes), "they are ignored")
        if not self.first:
            kept |= dict.fromkeys(first_layers(graph), "no other layer comes before it")
        if not self.downsampling:
            kept |= dict.fromkeys(filter(_strides, graph.nodes), "it makes what it reads smaller")
        twins = [graph_module] if context.reference is None else [graph_module, context.reference]
        for twin in twins if self.summed else ():
            count_channels(twin, analyze(twin), self.name)
        channels = analyze(graph_module, lambda found: _keep(found, kept))
        groups = clusters(channels)
        chosen = self._selection.choose(channels, groups, self._target)
        context.notes += [self._summary(channels, groups, chosen), *_pinned(channels)]
        known = kept.keys() | {layer.node for layer in channels.layers}
        left = untreated(graph_module, known, (), "no filters are known of such operations")
        context.notes += [f"the weights of {listed(names)} stay: {why}" for why, names in by_reason(left).items()]
        context.notes += _better_multiple(groups, chosen, self.multiple, context.target)
        if self.schedule is not None:
            chosen = self._selection.choose(channels, groups, self.schedule.initial)
        masks = element_masks(channels, {one for cluster in groups for one in cluster.elements}, chosen)
        made = mask_weights(
            graph_module, {constant: FilterMask(mask) for constant, mask in masks.items()}, self, context.reference
        )
        for call in made:
            call.meta["parts"] = channels.products.chosen
        for twin in twins:
            count_all(twin)
        for norm in graph.find_nodes(op="call_function", target=resolve("batch_norm")):
            norm.meta.setdefault("trains_as", MASKED_BATCH_NORM)
        return [Replacement.at(node) for node in made]

    def controller(self, graph_module: fx.GraphModule) -> FilterController | None:
        """Its `set_level` takes a share, as `amount` or `flops` do; None where no filter could be removed, or they are gone."""
        masks = masks_of(graph_module, self)
        parts = [node.meta["parts"] for node in graph_module.graph.nodes if node.meta.get("owner") is self]
        return (
            FilterController(graph_module, masks, self._selection, self.schedule, self._target, *parts[:1]) if masks else None
        )

    def _summary(self, channels: Channels, groups: list[Cluster], chosen: set[int]) -> str:
        total = sum(len(layer.filters) for layer in channels.layers)
        free = sum(len(place) for cluster in groups for places in cluster.places.values() for place in places)
        gone = sum(channels.elements.find(one) in chosen for layer in channels.layers for one in layer.filters)
        when = "are masked" if self.schedule is None else "will be masked"
        kept = f", so that each layer keeps a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"{gone} of {total} filters {when}{kept}; {free} could be, in {len(groups)} cluster{'s' * (len(groups) != 1)}"

    @property
    def _target(self) -> float:
        given = self.amount if self.flops is None else self.flops
        return 0.3 if given is None else given

    @property
    def _selection(self) -> Selection:
        return Selection(self.criterion, self.ranking, self.multiple, of_computation=self.flops is not None)


def _keep(channels: Channels, kept: Mapping[fx.Node, str]) -> None:
    """Pin the filters of the layers in `kept`, for the reasons there."""
    for layer in channels.layers:
        if layer.node in kept:
            channels.pin(layer.filters, kept[layer.node])


def _strides(node: fx.Node) -> bool:
    """Whether `node` is a convolution that has fewer places to put out than to read from."""
    names = signature(node.target).names if isinstance(node.target, OpOverload) else ()
    if "stride" not in names or "weight" not in names or argument(node, "weight") is None:
        return False
    stride = argument(node, "stride")
    transposed = "output_padding" in names
    return not transposed and any(step != 1 for step in (stride if isinstance(stride, (list, tuple)) else [stride]))


def _better_multiple(groups: list[Cluster], chosen: set[int], multiple: int, target: Target) -> list[str]:
    """A note where wide layers lose filters, and the target's integer kernels would gain more from another multiple."""
    preferred = target.filter_multiple
    pruned = [cluster for cluster in groups if not chosen.isdisjoint(cluster.elements)]
    widths = [len(layer.filters) for cluster in pruned for layer in cluster.places]
    if multiple % preferred == 0 or not any(width > preferred for width in widths):
        return []
    return [f"in integers {target.name} is faster with multiple={preferred}, for as many multiply-adds removed"]


def _pinned(channels: Channels) -> list[str]:
    """Why filters stay, and of which layers: a line a reason."""
    reasons: dict[str, list[str]] = {}
    for layer in channels.layers:
        held = [reason for one in layer.filters if (reason := channels.elements.reason(one)) is not None]
        if held:
            part = "" if len(held) == len(layer.filters) else f" ({len(held)} of {len(layer.filters)})"
            reasons.setdefault(held[0], []).append(f"{layer.node.name}{part}")
    return [f"the filters of {listed(names)} stay: {reason}" for reason, names in reasons.items()]
