"""Putting masks into a model that may be quantized or binarized already, as if they had been there before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import fx

from fxcompress.binarization.layers import binarized_layers
from fxcompress.ir.constants import is_constant, key_of
from fxcompress.ir.parameters import by_reason, untreated
from fxcompress.masks.mask import Mask, insert_mask, mask_of, masked, source_constant
from fxcompress.pattern.scopes import Scope, left_alone
from fxcompress.quantization.quantized import quantizer_of
from fxcompress.quantization.weights import fit
from fxcompress.report.units import listed
from fxcompress.sparsity.layers import WeightedLayer, weighted_layers


class Owner(Protocol):
    """Whose masks they are: a pass, which finds them again by `masks_of`."""

    @property
    def name(self) -> str: ...


def maskable_layers(
    graph_module: fx.GraphModule, ignored: Iterable[Scope], notes: list[str], scopes: Iterable[Scope] | None = None
) -> list[WeightedLayer]:
    """The layers whose weights can be masked one by one, of those in `scopes` if that is not None, without those in `ignored`.

    Binarized ones stay as they are, and `notes` names them: with zeros among their weights they would not run on bits.

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
    """
    others = left_alone(graph_module.graph, ignored, scopes)
    layers = [layer for layer in weighted_layers(graph_module.graph) if layer.node not in others]
    binarized = {key_of(source_constant(layer.node.args[1])) for layer in binarized_layers(graph_module)}
    stay = [layer.node.name for layer in layers if key_of(layer.constant) in binarized]
    if stay:
        notes.append(f"{', '.join(stay)} stay: they are binarized, and no bit is zero")
    known, treated = others | {layer.node for layer in layers}, [layer.constant for layer in layers]
    left = untreated(graph_module, known, treated, "masks are for convolutions, linear layers and products with a constant")
    notes += [f"{listed(names)} stay: {why}" for why, names in by_reason(left).items()]
    return [layer for layer in layers if key_of(layer.constant) not in binarized]


def mask_weights(
    graph_module: fx.GraphModule, masks: Mapping[fx.Node, Mask], owner: Owner, reference: fx.GraphModule | None
) -> list[fx.Node]:
    """Let all readers of each constant read it through its mask; returns the calls of the masks.

    `reference`, the float model that later passes compare with, gets the same masks, and quantizers of the weights get new
    ranges: those of the values that are left. `owner` finds its masks again by `masks_of`.
    """
    made = []
    for constant, mask in masks.items():
        call = insert_mask(graph_module, constant, mask, owner.name)
        call.meta["owner"] = owner
        made.append(call)
        _fit_quantizers(graph_module, call)
        if reference is not None:
            for twin in [node for node in reference.graph.nodes if is_constant(node) and key_of(node) == key_of(constant)]:
                insert_mask(reference, twin, mask, owner.name)
    return made


def masks_of(graph_module: fx.GraphModule, owner: Owner) -> dict[fx.Node, Mask]:
    """The masks that `owner` put there, by the constants behind them."""
    calls = [node for node in graph_module.graph.find_nodes(op="call_module") if node.meta.get("owner") is owner]
    found = {source_constant(call): mask_of(graph_module, call) for call in calls}
    return {constant: mask for constant, mask in found.items() if constant is not None and mask is not None}


@torch.no_grad()
def _fit_quantizers(graph_module: fx.GraphModule, value: fx.Node) -> None:
    for reader in value.users:
        quantizer = quantizer_of(graph_module, reader)
        if quantizer is not None:
            fit(quantizer, masked(graph_module, value))
