"""Where products are added up in pairs (`fxcompress.quantizers.neighbours`)."""

from __future__ import annotations

from torch import fx

from fxcompress.ir.dialect import resolve
from fxcompress.ir.signature import argument
from fxcompress.quantization.quantized import quantized_layers
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets.table import Target, Weighted

_LINEAR = resolve("linear")


def adds_up_pairs(node: fx.Node, weight: fx.Node, how: Weighted) -> bool:
    """Whether products with the numbers of `weight` are added up in pairs by `node`, whose weight is found by `how`.

    Neither are rows of a table, which nothing else reads, nor the places of a depthwise convolution's kernels.
    """
    if how.data is None:
        return len(weight.users) > 1
    channels, inputs = weight.meta["val"].shape[:2]
    return node.target is _LINEAR or inputs > 1 or channels == 1 or argument(node, "groups") != channels


def summed_operands(graph_module: fx.GraphModule, target: Target) -> dict[fx.Node, list[Quantizer]]:
    """Operands of products whose neighbours are to stay small, and the quantizers behind them."""
    found: dict[fx.Node, list[Quantizer]] = {}
    for layer in quantized_layers(graph_module, target):
        product = target.products.get(layer.node.target)
        if product is None or product.paired is None:
            continue
        quantizers = [graph_module.get_submodule(str(call.target)) for call in layer.activations]
        held = [quantizer for quantizer in quantizers if quantizer.spec.operand]
        if held:
            found[layer.node.args[product.paired]] = held
    return found
