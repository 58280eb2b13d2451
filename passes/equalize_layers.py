"""Make the weights of layers that follow one another equally wide, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, fx

from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.foreseen import kept_ahead
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import source_line
from fxcompress.ir.dialect import copy_graph, resolve
from fxcompress.ir.edit import attribute, insert_constant
from fxcompress.ir.signature import argument
from fxcompress.quantization.equalization import Scaling, equalize
from fxcompress.quantization.links import SPATIAL_DIMENSIONS, Link, find_links, first_reader
from fxcompress.quantization.patches import group_count
from fxcompress.rewrite.rule import Replacement

CLAMP = resolve("clamp")


@dataclass(frozen=True, kw_only=True)
class EqualizeLayers(Pass):
    """Divide the output channels of a layer by factors, and multiply the next layer's weights by the same.

    A channel whose weights are much smaller than the others' has few levels where they share a scale. Between two layers
    that a positive factor passes through, as it does through ReLU, pooling and flattening, the factors that make each
    channel equally wide in both leave the function as it is. Nagel et al., "Data-Free Quantization Through Weight
    Equalization and Bias Correction", arXiv 1906.04721, section 4.1, equations 7 to 11; its section 4.1.3, which absorbs
    large biases, changes the function and is not part of this. Instead, weights that are small beside their bias are
    widened less: the bias would be widened too, and with it the range of the activation.

    Layers are convolutions and linear layers with constant weights of 32 bits or more that nothing else reads, linked
    by a value that nothing else reads. No factor passes a clamp to other limits than zero, such as ReLU6: a limit for
    each channel would take its place, which OpenVINO computes in float, behind the integer convolution rather than in it.

    Where data are given, and `Quantize` or the like comes later in the list, a pair keeps its factors only if the outputs are
    nearer to the float model's then.

    Args:
        iterations: each pair has its turn so many times, at most: a layer between two others belongs to two pairs.
        tolerance: stop when no channel's widths in a pair differ by more than this share.
        bias_share: a bias counts as a weight of this share of its size; 0 is the paper.
        samples: of the calibration data, if there are any, at most, to find ranges on for the pairs to be judged with.
        judging: samples that come after these, at most, to judge the pairs on.

    Raises:
        InputError: `iterations` is less than 1, `tolerance` not a positive number, or `bias_share` a negative one.
    """

    iterations: Annotated[int, Ge(1)] = 100
    tolerance: Annotated[float, Gt(0)] = 1e-3
    bias_share: Annotated[float, Ge(0)] = 0.1
    samples: Annotated[int, Ge(1)] = 32
    judging: Annotated[int, Ge(1)] = 16

    effect: ClassVar[Effect] = Effect.ROUNDING

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        context.notes += _clamped(graph_module.graph)
        links = find_links(graph_module)
        layers = dict.fromkeys(layer for link in links for layer in (link.first, link.second))
        scalings = {layer: self._scaling(graph_module, layer) for layer in layers}
        pairs = [(scalings[link.first], scalings[link.second]) for link in links]
        if not equalize(pairs, self.iterations, self.tolerance):
            return []
        factors = [_Factors.of(link, *pair) for link, pair in zip(links, pairs)]
        if context.data is not None:
            choosing, others = divided(graph_module.graph, context, self.samples, self.judging)
            present = partial(self._scaled, graph_module, scalings)
            factors = kept_ahead(factors, graph_module, context, choosing, others, present=present)
        kept = [one.link for one in factors]
        for layer in dict.fromkeys(layer for link in kept for layer in (link.first, link.second)):
            self._scale(graph_module, layer, scalings[layer])
        return [Replacement("", link.first.name, link.second.name, source_line(link.first)) for link in kept]

    def _scaled(self, graph_module: fx.GraphModule, scalings: Mapping[fx.Node, Scaling]) -> fx.GraphModule:
        """A copy of `graph_module` whose layers have the factors that `scalings` have at the time."""
        twin = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
        by_name = {node.name: node for node in twin.graph.nodes}
        for layer, scaling in scalings.items():
            self._scale(twin, by_name[layer.name], scaling)
        return twin

    def _scaling(self, graph_module: fx.GraphModule, layer: fx.Node) -> Scaling:
        bias = argument(layer, "bias")
        counted = None if bias is None else self.bias_share * _tensor(graph_module, bias)
        return Scaling.of(_tensor(graph_module, layer.args[1]), group_count(layer), counted)

    def _scale(self, graph_module: fx.GraphModule, layer: fx.Node, scaling: Scaling) -> None:
        """Let `layer` read a weight and a bias with the factors of `scaling`."""
        weight, bias = layer.args[1], argument(layer, "bias")
        scaled = [self._constant(graph_module, weight, scaling.scaled(_tensor(graph_module, weight)), layer)]
        if bias is not None:
            tensor = _tensor(graph_module, bias)
            divided = (tensor / scaling.outputs.flatten()).to(tensor.dtype)
            scaled.append(self._constant(graph_module, bias, divided, layer))
        layer.args = (layer.args[0], *scaled, *layer.args[1 + len(scaled) :])

    def _constant(self, graph_module: fx.GraphModule, old: fx.Node, value: Tensor, layer: fx.Node) -> fx.Node:
        name = f"{old.target}_equalized"
        return insert_constant(graph_module, name, value, before=layer, created_by=self.name, replaces=old)


@dataclass
class _Factors:
    """Those of a link: what `first` is divided by and `second` multiplied by, shaped as `Scaling` has them."""

    link: Link
    first: Scaling
    second: Scaling
    outputs: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, link: Link, first: Scaling, second: Scaling) -> _Factors:
        return cls(link, first, second, first.outputs, second.inputs)

    @property
    def node(self) -> fx.Node:
        return self.link.first

    def make(self) -> None:
        self.first.outputs, self.second.inputs = self.outputs, self.inputs

    def undo(self) -> None:
        self.first.outputs, self.second.inputs = torch.ones_like(self.outputs), torch.ones_like(self.inputs)


def _tensor(graph_module: fx.GraphModule, constant: fx.Node) -> Tensor:
    return attribute(graph_module, constant.target).detach()


def _clamped(graph: fx.Graph) -> list[str]:
    """A note on the clamps that keep layers from being linked."""
    readers = [first_reader(node)[0] for node in graph.nodes if node.target in SPATIAL_DIMENSIONS]
    clamps = [reader.name for reader in readers if reader is not None and reader.target is CLAMP]
    if not clamps:
        return []
    more = f" and {len(clamps) - 3} more" if len(clamps) > 3 else ""
    return [f"layers are not linked by a clamp, which no factor passes: {', '.join(clamps[:3])}{more}"]
