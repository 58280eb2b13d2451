"""Masks that make a graph compute as if channels were gone, and which channels masks have left nothing of."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from fxcompress.channels.dependencies import Channels
from fxcompress.channels.narrowable import Narrowable
from fxcompress.masks.mask import alive, combined, masks, source_constant


def element_masks(
    channels: Channels, removable: Collection[int], chosen: Collection[int] | None = None
) -> dict[fx.Node, Tensor]:
    """A mask for each constant that holds any of the sets of channels `removable`: zeros where it holds one that is `chosen`.

    Args:
        removable: as `Elements.find` gives them. A mask has the constant's size along each axis that holds one, else 1.
        chosen: of them; None for all.
    """
    found: dict[fx.Node, Tensor] = {}
    for weight in channels.weights:
        constant = source_constant(weight)
        mask = _element_mask(channels, weight, removable, removable if chosen is None else chosen)
        if mask is not None and constant is not None:
            found[constant] = mask
    return found


def _element_mask(channels: Channels, weight: fx.Node, removable: Collection[int], chosen: Collection[int]) -> Tensor | None:
    axes, value = channels.of(weight), weight.meta["val"]
    factors = []
    for axis, ids in enumerate(axes):
        roots = [channels.elements.find(one) for one in ids or ()]
        if any(root in removable for root in roots):
            kept = torch.tensor([root not in chosen for root in roots], dtype=value.dtype, device=value.device)
            factors.append(kept.view([-1 if d == axis else 1 for d in range(len(axes))]))
    return math.prod(factors[1:], start=factors[0]) if factors else None


def pin_indices(channels: Channels, kept: Mapping[str, Sequence[Sequence[int] | None]]) -> None:
    """Pin the indices `kept` of each axis of constants, by their targets; for `analyze`."""
    for constant in channels.graph_module.graph.find_nodes(op="get_attr"):
        for ids, indices in zip(channels.of(constant), kept.get(str(constant.target), ())):
            channels.pin([ids[index] for index in indices] if ids and indices else None, "it stays in the model")


def pin_what_is_not_masked(channels: Channels) -> None:
    """Pin every channel that some weight still uses, or some module cannot do without; for `analyze`."""
    for node in channels.graph_module.graph.find_nodes(op="call_module"):
        module = channels.graph_module.get_submodule(str(node.target))
        for axis in module.whole_axes if isinstance(module, Narrowable) else ():
            channels.pin(channels.of(node)[axis], f"groups of them share a scale in {node.name}")
    calls = {constant: call for call, constant in masks(channels.graph_module)}
    for weight in channels.weights:
        call = calls.get(source_constant(weight))
        product = None if call is None else combined(channels.graph_module, call)
        for axis, ids in enumerate(channels.of(weight)):
            if ids is not None:
                used = [True] * len(ids) if product is None else alive(product, axis).tolist()
                channels.pin((one for one, is_used in zip(ids, used) if is_used), "it is not masked")
