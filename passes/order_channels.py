"""Order channels so that no two neighbours have large weights of one sign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.channels import Channels, analyze
from fxcompress.channels.elements import Ids
from fxcompress.channels.exchange import exchange, exchangeable
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.edit import attribute
from fxcompress.quantization.parting import apart, excess
from fxcompress.quantization.patches import MATRIX_PRODUCTS
from fxcompress.rewrite.rule import Replacement

TOGETHER = 2048
"""Channels that partners are looked for among; of more, so many at a time."""


@dataclass(frozen=True, kw_only=True)
class OrderChannels(Pass):
    """Order the channels inside the model so that few neighbours have large weights of one sign in what reads them.

    The model computes what it did: what makes a channel, scales it and reads it moves with it. `Quantize` makes the steps of
    a weight wider where two neighbours of one sign are large (see its `reduce_range`), which costs MobileNetV2's weights two
    decibels without this pass, and one with it.

    Inputs and outputs of the model keep their order, and so do channels that masks, norms over channels or attentions hold
    together, and what operations do by their place (`fxcompress.channels`). To train with masks or quantizers, list it before
    what inserts them.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        channels = analyze(graph_module)
        return [Replacement.at(node) for node in exchange(channels, _all_sources(channels), self.name)]


def _all_sources(channels: Channels) -> dict[int, int]:
    """For each place that is to be another channel's, which."""
    readers, sources = list(_readers(channels)), dict[int, int]()
    for members in exchangeable(channels):
        for start in range(0, len(members), TOGETHER):
            part = members[start : start + TOGETHER]
            sources |= _sources(part, [rows for one in readers if (rows := _rows(part, *one)) is not None])
    return sources


def _sources(members: Ids, weights: list[Tensor]) -> dict[int, int]:
    """For each place, named by who has it, who is to have it; nothing where all may stay."""
    if not weights:
        return {}
    costs = excess(torch.cat(weights))
    order = apart(costs)
    if costs[order[::2], order[1::2]].sum() >= costs.diagonal(1)[::2].sum():
        return {}
    return {place: members[index] for place, index in zip(members, order.tolist())}


def _readers(channels: Channels) -> Iterator[tuple[Ids, Tensor, Tensor]]:
    """The channels that each layer reads, its weight, and the largest value in it for each channel that it computes."""
    for node in channels.graph_module.graph.nodes:
        if node.target in MATRIX_PRODUCTS and node.args[1].op == "get_attr" and node.args[1].meta["val"].dim() > 1:
            columns = channels.of(node.args[1])[1]
            if columns is not None and len(columns) % 2 == 0:
                weight = attribute(channels.graph_module, str(node.args[1].target)).detach()
                largest = weight.flatten(1).abs().amax(1).float().clamp(min=torch.finfo(torch.float32).tiny)
                yield [*map(channels.elements.find, columns)], weight, largest


def _rows(members: Ids, columns: Ids, weight: Tensor, largest: Tensor) -> Tensor | None:
    """The part of `weight` that reads `members`, where neighbours of them are neighbours there.

    ``[rows, members]``, in units of the `largest` value for each channel that the layer computes.
    """
    start = columns.index(members[0]) if members[0] in columns else 1
    if start % 2 or len(members) % 2 or columns[start : start + len(members)] != members:
        return None
    read = weight[:, start : start + len(members)].float() / largest.view(-1, *[1] * (weight.dim() - 1))
    return read.movedim(1, -1).flatten(0, -2)
