"""Put the binary convolutions that OpenVINO has kernels for in place of simulated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.binarization import ops  # noqa: F401 -- defines torch.ops.fxcompress
from fxcompress.binarization.binarizers import ActivationBinarizer
from fxcompress.binarization.layers import BinarizedLayer, binarized_layers
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import called, insert_constant, insert_function
from fxcompress.ir.fake import example_sizes
from fxcompress.ir.parameters import by_reason
from fxcompress.ir.signature import argument
from fxcompress.masks.mask import alive, constant_behind, masked, source_constant
from fxcompress.report.units import listed
from fxcompress.rewrite.rule import Replacement

BINARY_CONVOLUTION = torch.ops.fxcompress.binary_convolution.default
MULTIPLY, ADD, CONCATENATE = resolve("mul"), resolve("add"), resolve("cat")

LARGEST_PADDING = 2
"""Columns of padding that the kernel takes on every x86 CPU: as many as it computes at a time, 2 (AVX2) or 4 (AVX512)."""

LARGEST_KERNEL = 7
"""Columns of the filters. Wider ones it takes in some cases only."""


@dataclass(frozen=True, kw_only=True)
class UseBinaryConvolutions(Pass):
    """Replace binarized convolutions by `fxcompress::binary_convolution`, which computes with -1 and 1, and a scale and shift.

    An activation x of 0 and s is ``s (b + 1) / 2`` with b of -1 and 1, so that, filter by filter, a convolution of x with the
    weights ``a w``, w of -1 and 1, is ``a s / 2`` times that of b with w plus the sum of w. This holds at the borders too:
    padding with zeros is padding of b with -1.

    A filter of nothing but zeros has a scale of zero. The kernel (`BinaryConvolution`, OpenVINO 2026.4, checked on a CPU with
    AVX512) has no other zeros; it computes wrongly where the input channels are no multiple of 8, and where both a sum and a
    binarizer behind it are fused to it; it does not take wide padding. Those convolutions stay as they are.
    """

    effect: ClassVar[Effect] = Effect.ROUNDING

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        rewritten, left = [], dict[fx.Node, str]()
        for layer in list(binarized_layers(graph_module)):
            if not layer.is_binary:
                continue
            if obstacle := _obstacle(graph_module, layer):
                left[layer.node] = obstacle
                continue
            self._replace(graph_module, layer)
            rewritten.append(Replacement.at(layer.node))
        for why, names in by_reason(left).items():
            context.notes.append(f"{listed(names)} compute{'s' * (len(names) == 1)} in 8 bits: {why}")
        if rewritten and _has_free_sizes(graph_module.graph):
            context.notes.append("its binary convolutions take images of the example's size: OpenVINO has to know it")
        return rewritten

    @torch.no_grad()
    def _replace(self, graph_module: fx.GraphModule, layer: BinarizedLayer) -> None:
        node, stem = layer.node, layer.node.name
        data, source = node.args[0].args[0], node.args[1].args[0]
        weight = masked(graph_module, source)
        bias = masked(graph_module, argument(node, "bias")) if argument(node, "bias") else None
        signs = torch.where(weight > 0, 1, -1).to(torch.int8)
        scale = layer.weight.scale(weight).double() * layer.activation.scale.double() / 2 * alive(weight, 0)
        shift = signs.sum((1, 2, 3)) * scale
        if bias is not None:
            shift = shift + bias

        def constant(what: str, value: Tensor) -> fx.Node:
            return insert_constant(graph_module, f"{stem}_{what}", value, before=node, created_by=self.name)

        def call(target, *args: object, name: str) -> fx.Node:
            value = node.meta["val"]
            return insert_function(target, *args, name=name, value=value, before=node, created_by=self.name)

        constants = constant("threshold", layer.activation.threshold.clone()), constant("signs", signs)
        geometry = [list(argument(node, name)) for name in ("stride", "padding", "dilation")]
        result = call(BINARY_CONVOLUTION, data, *constants, *geometry, name=f"{stem}_binary")
        result = call(MULTIPLY, result, constant("scale", scale.float().view(-1, 1, 1)), name=f"{stem}_scaled")
        result = call(ADD, result, constant("shift", shift.float().view(-1, 1, 1)), name=f"{stem}_shifted")
        node.replace_all_uses_with(result)
        node.graph.erase_node(node)


def _obstacle(graph_module: fx.GraphModule, layer: BinarizedLayer) -> str | None:
    """Why OpenVINO's binary kernel cannot compute the convolution `layer`."""
    node, weight = layer.node, masked(graph_module, layer.node.args[1].args[0])
    _, channels, _, columns = node.args[1].meta["val"].shape
    width, padding = example_sizes(node.meta["val"].shape)[-1], argument(node, "padding")[1]
    if (weight[alive(weight, 0)] == 0).any():
        return "some of its weights are zero, and no bit is"
    if channels % 8:
        return f"its {channels} input channels are no multiple of 8"
    if columns > LARGEST_KERNEL or padding > min(LARGEST_PADDING, width):
        return f"its kernel of {columns} columns with a padding of {padding} is too wide"
    bias = argument(node, "bias")
    if bias is not None and constant_behind(graph_module, bias) is None:
        return "its bias is not a constant"
    if _joins_before_binarizer(graph_module, node):
        return "only binarizers read the sum that it is part of"
    return None


def _has_free_sizes(graph: fx.Graph) -> bool:
    """Whether sizes of inputs are free, other than the first, which is the batch's."""
    values = (node.meta["val"] for node in graph.find_nodes(op="placeholder"))
    return any(isinstance(size, torch.SymInt) for value in values if isinstance(value, Tensor) for size in value.shape[1:])


def _joins_before_binarizer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what `node` computes meets another value, and what comes of both is read by binarizers alone."""
    joined = False
    while node.users:
        readers = list(node.users)
        if all(called(graph_module, reader, ActivationBinarizer) for reader in readers):
            return joined
        if len(readers) > 1:
            return False
        (node,) = readers
        if node.target is CONCATENATE:
            return False
        joined |= sum(source_constant(source) is None for source in node.all_input_nodes) > 1
    return False
