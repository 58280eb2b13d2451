"""Give convolutions weights and activations of two values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import fx

from fxcompress.binarization.binarizers import WEIGHT_BINARIZERS, ActivationBinarizer, Binarizer, nearest_scale
from fxcompress.binarization.layers import CONVOLUTION, binarized_layers
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import CalibrationError, InputError, describe
from fxcompress.execution.observe import observe
from fxcompress.ir.cost import first_layers
from fxcompress.ir.edit import add_attribute, insert_call
from fxcompress.ir.signature import argument
from fxcompress.masks.mask import FilterMask, constant_behind, masks_up_to
from fxcompress.options import OneOf
from fxcompress.pattern.scopes import Scope, select
from fxcompress.quantization.quantized import quantizer_of
from fxcompress.rewrite.rule import Replacement
from fxcompress.training.binarization import BinarizationController
from fxcompress.training.levels import Epoch


@dataclass(frozen=True, kw_only=True)
class Binarize(Pass):
    """Binarize convolutions of two dimensions: weights to ``-s`` and ``s``, what they read to 0 and a scale.

    A weight of exactly zero stays zero: so filters and channels that are masked can be removed.

    The model must be trained afterwards (`fxcompress.binarization.binarizers` has the gradients). `Quantize`, listed behind
    it, leaves the binarized layers alone. What is lowered to ONNX computes in 8-bit integers; OpenVINO's binary kernels
    are reached by `Compiled.to_openvino`.

    Args:
        weights: ``"xnor"``, one scale an output filter, or ``"dorefa"``, one a layer.
        scopes: binarize the convolutions in these scopes (see `fxcompress.scopes.select`). None for all but the first ones
            (that no other layer comes before), those with a kernel of one pixel, those with groups, and those that read
            nothing positive.
        ignored: scopes left alone.
        activations_start_epoch, weights_start_epoch: the epoch of training, from 0, that starts the one and the other.
        samples: of the data, at most, that the activations' scales are set from; None for all.

    Raises:
        ScopeError: an entry of `scopes` or `ignored` matches nothing.
        InputError: an option cannot be used, a scope holds no convolution, there is no data, or a convolution cannot be
            binarized: it has groups, a weight that is computed, masks on single weights, or quantizers already.
        CalibrationError: what a convolution reads is not finite, or never positive and the convolution is in `scopes`.
    """

    weights: Annotated[str, OneOf(WEIGHT_BINARIZERS)] = "xnor"
    scopes: Iterable[Scope] | None = None
    ignored: Iterable[Scope] = ()
    activations_start_epoch: Epoch = 0
    weights_start_epoch: Epoch = 0
    samples: Annotated[int, Ge(1)] | None = 100

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        layers = self._layers(graph_module, context)
        scales = _scales(graph_module, context, layers, self.samples) if layers else {}
        if self.scopes is None:
            never = [node for node in layers if scales[node.args[0]] == 0]
            context.notes += [f"{node.name} is not binarized: nothing that it reads is positive" for node in never]
            layers = [node for node in layers if node not in never]
        if not layers:
            context.notes.append("no convolution is binarized")
            return []
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in layers:
            readers.setdefault(node.args[1], []).append(node)
            self._binarize_activation(graph_module, node, scales[node.args[0]])
        for weight, nodes in readers.items():
            self._insert(graph_module, weight, nodes, WEIGHT_BINARIZERS[self.weights](), f"{weight.name}_binarizer")
        if controller := self.controller(graph_module):
            controller.start()
        return [Replacement.at(node) for node in layers]

    def controller(self, graph_module: fx.GraphModule) -> BinarizationController | None:
        """See `BinarizationController`; None where this pass has binarized nothing."""
        layers = [layer for layer in binarized_layers(graph_module) if layer.node.args[0].meta.get("owner") is self]
        if not layers:
            return None
        return BinarizationController(
            graph_module,
            layers,
            weights_start_epoch=self.weights_start_epoch,
            activations_start_epoch=self.activations_start_epoch,
        )

    def _binarize_activation(self, graph_module: fx.GraphModule, node: fx.Node, scale: float) -> None:
        """Put a binarizer between `node` and what it reads; the same value for other layers has others."""
        value = node.args[0]
        binarizer = ActivationBinarizer(value.meta["val"].shape[1])
        try:
            binarizer.set_scale(scale)
        except CalibrationError as problem:
            raise CalibrationError(
                f"{problem} of what {describe(node)} reads: it must be positive somewhere, as it is behind a ReLU; "
                "else leave the layer alone: ignored=[...]"
            ) from None
        self._insert(graph_module, value, [node], binarizer, f"{node.name}_input_binarizer")

    def _insert(
        self, graph_module: fx.GraphModule, value: fx.Node, readers: Iterable[fx.Node], binarizer: Binarizer, name: str
    ) -> None:
        call = insert_call(value, readers, add_attribute(graph_module, name, binarizer), name=name, created_by=self.name)
        call.meta["owner"] = self

    def _layers(self, graph_module: fx.GraphModule, context: Context) -> list[fx.Node]:
        """The convolutions to binarize."""
        graph = graph_module.graph
        left_alone = select(graph, self.ignored) | {layer.node for layer in binarized_layers(graph_module)}
        chosen = [node for node in graph.find_nodes(op="call_function", target=CONVOLUTION) if node not in left_alone]
        if self.scopes is None:
            first = first_layers(graph)
            better_left = {node: why for node in chosen if (why := _better_left(node, first))}
            context.notes += [f"{node.name} is not binarized: {why}" for node, why in better_left.items()]
            chosen = [node for node in chosen if node not in better_left]
        else:
            named = [(scope, select(graph, [scope])) for scope in self.scopes]  # nothing where it is of another part
            empty = [scope for scope, nodes in named if nodes and not any(node.target is CONVOLUTION for node in nodes)]
            if empty:
                raise InputError(f"there is no convolution of two dimensions in {empty[0]!r}, and nothing else is binarized")
            chosen = [node for node in chosen if any(node in nodes for _, nodes in named)]
        problems = [f"  {describe(node)}: {why}" for node in chosen if (why := _obstacle(graph_module, node))]
        if problems:
            raise InputError("\n".join(["these convolutions cannot be binarized; leave them alone, ignored=[...]:", *problems]))
        return chosen


def _obstacle(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    """Why the convolution `node` cannot be binarized."""
    data, weight = node.args[:2]
    if any(quantizer_of(graph_module, source) for source in (data, weight)):
        return "it is quantized; list Binarize before Quantize, or let Quantize(ignored=[...]) leave it alone"
    if not all(isinstance(mask, FilterMask) for mask in masks_up_to(graph_module, weight)):
        return (
            "single weights of it are masked, and no bit is zero; list Binarize before Sparsify and LearnSparsity, which "
            "leave binarized layers alone, or have them leave this one alone: ignored=[...]"
        )
    if argument(node, "groups") != 1:
        return "it has groups"
    if constant_behind(graph_module, weight) is None:
        return "its weight is computed by the graph, not a constant"
    if data.meta["val"].dim() != 4 or data.meta["val"].dtype != torch.float32:
        return "its input is not float32 with a batch dimension"
    return None


def _better_left(node: fx.Node, first: set[fx.Node]) -> str | None:
    """Why the convolution `node` is left alone unless it is asked for."""
    if node in first:
        return "no other layer comes before it"
    if all(size == 1 for size in node.args[1].meta["val"].shape[2:]):
        return "its kernel is one pixel"
    if argument(node, "groups") != 1:
        return "it has groups"
    return None


def _scales(
    graph_module: fx.GraphModule, context: Context, layers: Iterable[fx.Node], samples: int | None
) -> Mapping[fx.Node, float]:
    """For each value that `layers` read, the mean over batches of its `nearest_scale`."""
    seen: dict[fx.Node, list[float]] = {node.args[0]: [] for node in layers}
    for value, x in observe(graph_module, context, seen, samples=samples):
        seen[value].append(nearest_scale(x.float()))
    return {value: sum(tops) / len(tops) for value, tops in seen.items()}
