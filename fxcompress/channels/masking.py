"""Masks that make a graph compute as if channels were gone, and which channels masks have left nothing of."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, fx

from fxcompress.channels.analysis import Channels, Narrowable
from fxcompress.masks import Mask, alive, combined, constant_behind, insert_mask, masks


def mask_elements(channels: Channels, chosen: Collection[int], created_by: str) -> list[fx.Node]:
    """Mask all that the sets of channels `chosen` have in weights; returns the calls of the masks.

    Args:
        chosen: as `Elements.find` gives them.
    """
    made = []
    for weight in channels.weights:
        mask = element_mask(channels, weight, chosen)
        constant = constant_behind(weight)
        if mask is not None and constant is not None:
            made.append(insert_mask(channels.graph_module, constant, Mask(mask), created_by))
    return made


def element_mask(channels: Channels, weight: fx.Node, chosen: Collection[int]) -> Tensor | None:
    """Zeros where `weight` belongs to the sets of channels `chosen`; None where nothing does.

    Of the weight's dimensions, but one along axes without such channels.
    """
    axes, value = channels.of(weight), weight.meta["val"]
    factors = []
    for axis, ids in enumerate(axes):
        gone = torch.tensor([channels.elements.find(one) in chosen for one in ids or ()], device=value.device)
        if gone.any():
            factors.append((~gone).to(value.dtype).view([-1 if d == axis else 1 for d in range(len(axes))]))
    return math.prod(factors[1:], start=factors[0]) if factors else None


def pin_what_is_not_masked(channels: Channels) -> None:
    """Pin every channel that some weight still uses, or some module cannot do without; for `analyze`."""
    for node in channels.graph_module.graph.find_nodes(op="call_module"):
        module = channels.graph_module.get_submodule(str(node.target))
        for axis in module.whole_axes if isinstance(module, Narrowable) else ():
            channels.pin(channels.of(node)[axis], f"groups of them share a scale in {node.name}")
    calls = {constant: call for call, constant in masks(channels.graph_module)}
    for weight in channels.weights:
        call = calls.get(constant_behind(weight))
        product = None if call is None else combined(channels.graph_module, call)
        for axis, ids in enumerate(channels.of(weight)):
            if ids is not None:
                used = [True] * len(ids) if product is None else alive(product, axis).tolist()
                channels.pin((one for one, is_used in zip(ids, used) if is_used), "it is not masked")
