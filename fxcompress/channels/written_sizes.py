"""Sizes that calls have among their arguments, when channels are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import fx

from fxcompress.channels.dependencies import Channels
from fxcompress.channels.elements import Ids
from fxcompress.ir.signature import arguments, operation

aten = torch.ops.aten

Kept: TypeAlias = Callable[[Ids], list[int]]
"""The indices of an axis that stay."""

_ADJUST: dict[str, Callable[[Channels, Kept, fx.Node], None]] = {}


def _adjusts(names: str):
    def enter(function: Callable[[Channels, Kept, fx.Node], None]):
        _ADJUST.update(dict.fromkeys(names.split(), function))
        return function

    return enter


def adjust_written_sizes(channels: Channels, kept: Kept, node: fx.Node) -> None:
    """Write the numbers of channels that are left into the arguments of the call `node` that tell them."""
    adjust = _ADJUST.get(operation(node)) if node.op == "call_function" else None
    if adjust is not None:
        adjust(channels, kept, node)


def _set(node: fx.Node, name: str, value: object) -> None:
    """Give the argument `name` another value."""
    position = [argument.name for argument in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


@_adjusts("reshape expand")
def _sizes(channels: Channels, kept: Kept, node: fx.Node) -> None:
    name = "shape" if operation(node) == "reshape" else "size"
    sizes = [
        size if ids is None or not isinstance(size, int) or size == -1 else len(kept(ids))
        for size, ids in zip(arguments(node)[name], channels.of(node))
    ]
    _set(node, name, sizes)


@_adjusts("unflatten")
def _unflattened(channels: Channels, kept: Kept, node: fx.Node) -> None:
    given = arguments(node)
    axes = channels.of(node)
    first = given["dim"] % (len(axes) - len(given["sizes"]) + 1)
    sizes = [size if ids is None or size == -1 else len(kept(ids)) for size, ids in zip(given["sizes"], axes[first:])]
    _set(node, "sizes", sizes)


@_adjusts("split split_with_sizes")
def _pieces(channels: Channels, kept: Kept, node: fx.Node) -> None:
    given = arguments(node)
    pieces = [axes[given["dim"]] for axes in channels.axes[node]]
    if None not in pieces:
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (given["self"], [len(kept(ids)) for ids in pieces], given["dim"]), {}


@_adjusts("slice slice_scatter")
def _bounds(channels: Channels, kept: Kept, node: fx.Node) -> None:
    given = arguments(node)
    dim = given["dim"]
    whole, part = channels.of(given["self"])[dim], channels.of(given.get("src", node))[dim]
    if whole is not None and part is not None and len(kept(whole)) < len(whole):  # pinned, unless the step is 1
        first = len(kept(whole[: range(len(whole))[slice(given["start"], None)].start]))
        _set(node, "start", first)
        _set(node, "end", first + len(kept(part)))


@_adjusts(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d channel_shuffle group_norm counted_group_norm"
)
def _groups(channels: Channels, kept: Kept, node: fx.Node) -> None:
    ids = channels.groups.get(node)
    if ids is not None:
        _set(node, "num_groups" if operation(node).endswith("group_norm") else "groups", len(kept(ids)))


@_adjusts("counted_layer_norm counted_rms_norm")
def _normalized(channels: Channels, kept: Kept, node: fx.Node) -> None:
    ids = channels.of(node)[-1]
    if ids is not None:
        _set(node, "normalized_shape", [len(kept(ids))])
