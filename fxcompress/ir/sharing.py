"""Which calls read one tensor, as those of a layer that is called several times do, and what may be done to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import fx

from fxcompress.ir.edit import attribute
from fxcompress.ir.reach import reached
from fxcompress.report.units import listed

_Change = TypeVar("_Change", bound=Hashable)


def read_once(graph_module: fx.GraphModule, constants: Collection[fx.Node]) -> set[fx.Node]:
    """Those of the `get_attr` nodes whose tensor one call alone reads, by this name or any other."""
    tensors, readers = _tensors(graph_module), _readers(graph_module)
    return {node for node in constants if len(readers[id(tensors[node])]) == 1}


def changed_together(
    graph_module: fx.GraphModule, changes: Mapping[_Change, Mapping[fx.Node, str]]
) -> tuple[list[list[_Change]], list[_Change]]:
    """`changes` in groups, and those that cannot be made without that a tensor becomes several.

    Where the changes of a group are made alike, the readers of each tensor read the same again (`join_copies`). Changes belong
    together where they alter one tensor in one way. A change cannot be made where the tensor is also read by who alters it in
    other ways, or not at all; nor can those of its group.

    Args:
        changes: of each the calls whose constants it alters, and in which way.
    """
    tensors, ways = _tensors(graph_module), defaultdict[fx.Node, set[str]](set)
    for change in changes.values():
        for reader, way in change.items():
            ways[reader].add(way)
    torn = {
        tensor for tensor, found in _readers(graph_module).items() if len({frozenset(ways.get(one, ())) for one in found}) > 1
    }
    marks = {
        one: [(id(tensors[held]), way) for reader, way in change.items() for held in reader.all_input_nodes if held in tensors]
        for one, change in changes.items()
    }
    groups, left = list[list[_Change]](), list[_Change]()
    for group in connected(marks):
        if any(tensor in torn for one in group for tensor, _ in marks[one]):
            left += group
        else:
            groups.append(group)
    return groups, left


def others_read(names: Sequence[str]) -> list[str]:
    """The note on the layers, or values, `names`, which stay since their weights cannot be changed for them alone."""
    return [f"other calls read the weights of these, which stay: {listed(names)}"] if names else []


def connected(marks: Mapping[_Change, Iterable[Hashable]]) -> list[list[_Change]]:
    """The keys of `marks` in groups, each in the order of `marks`: together are those that have a mark in common."""
    holders, groups = defaultdict[Hashable, list[_Change]](list), dict[_Change, list[_Change]]()
    for one, own in marks.items():
        for mark in own:
            holders[mark].append(one)
    for one in marks:
        if one not in groups:
            group: list[_Change] = []
            groups |= dict.fromkeys(reached([one], lambda near: [far for mark in marks[near] for far in holders[mark]]), group)
        groups[one].append(one)
    return list({id(group): group for group in groups.values()}.values())


def _tensors(graph_module: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    return {node: attribute(graph_module, str(node.target)) for node in graph_module.graph.find_nodes(op="get_attr")}


def _readers(graph_module: fx.GraphModule) -> dict[int, set[fx.Node]]:
    """The calls that read each tensor, which can have several names."""
    found = defaultdict[int, set[fx.Node]](set)
    for node, tensor in _tensors(graph_module).items():
        found[id(tensor)].update(node.users)
    return found
