"""Channels that can change places: the constants in another order along them, and the graph computes what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from fxcompress.channels.dependencies import Channels
from fxcompress.channels.elements import Ids
from fxcompress.ir.constants import behind, is_computed
from fxcompress.ir.edit import add_attribute, attribute, held_like, is_of_a_pass, name_of
from fxcompress.storage.aside import Replaced


def exchangeable(channels: Channels) -> list[Ids]:
    """The sets of channels whose members can change places with each other, each in the order of the graph.

    Members of a set are on the same axes, equally often: what is done to one by its place on an axis is done to all, and a
    slice, or a constant, has all of them or none. Channels that must stay keep their places, and so do those of modules
    (masks, quantizers), of constants that are computed, and of tensors with several names.
    """
    find, held = channels.elements.find, _held(channels)
    places: dict[int, list[int]] = {}
    for number, ids in enumerate(channels.all_axes()):
        for one in ids:
            places.setdefault(find(one), []).append(number)
    alike: dict[tuple[int, ...], Ids] = {}
    for one, numbers in places.items():
        if one not in held and channels.elements.is_free(one):
            alike.setdefault(tuple(numbers), []).append(one)
    return [members for members in alike.values() if len(members) > 1]


def _held(channels: Channels) -> set[int]:
    """The channels of what cannot be put into another order."""
    constants = channels.graph_module.graph.find_nodes(op="get_attr")
    tensors = {str(node.target): attribute(channels.graph_module, str(node.target)) for node in constants}
    names = Counter(map(id, tensors.values()))
    modules = channels.graph_module.graph.find_nodes(op="call_module")
    computed = [*filter(is_computed, channels.graph_module.graph.nodes)]
    parts = [source for node in computed for source in behind(node)]
    shared = [node for node in constants if names[id(tensors[str(node.target)])] > 1]
    held = [*modules, *computed, *parts, *shared]
    return {channels.elements.find(one) for node in held for ids in channels.of(node) for one in ids or ()}


def exchange(channels: Channels, sources: Mapping[int, int], created_by: str) -> list[fx.Node]:
    """Put the channel ``sources[c]`` in the place of c, for each c of `sources`, in all constants. Returns those that changed.

    Args:
        sources: a permutation of each of some sets that are `exchangeable`.
    """
    graph_module, made, changed = channels.graph_module, dict[str, str](), list[fx.Node]()
    replaced = Replaced()
    for node in graph_module.graph.find_nodes(op="get_attr"):
        target = str(node.target)
        orders = [_order(sources, [*map(channels.elements.find, ids or ())]) for ids in channels.of(node)]
        if all(order is None for order in orders):
            continue
        if target not in made:
            old = attribute(graph_module, target)
            value = old.detach()
            for axis, order in enumerate(orders):
                if order is not None:
                    value = value.index_select(axis, order.to(value.device))
            made[target] = add_attribute(graph_module, f"{target}_ordered", held_like(old, value))
            if is_of_a_pass(node):  # so that the graph before is the only one that reads it
                replaced.add(old)
        node.meta |= {"stands_for": name_of(node), "created_by": created_by}
        node.target = made[target]
        changed.append(node)
    return changed


def _order(sources: Mapping[int, int], channels: Ids) -> Tensor | None:
    """For each place the one whose numbers come there: of a channel that is there several times, one after the other."""
    wanted = [sources.get(one, one) for one in channels]
    if wanted == channels:
        return None
    places: dict[int, list[int]] = {}
    for place, one in enumerate(channels):
        places.setdefault(one, []).append(place)
    left = {one: iter(several) for one, several in places.items()}
    return torch.tensor([next(left[one]) for one in wanted])
