"""Quantized weights as the integers that a file holds, and their dequantize, in the place of floats that are rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.ir.edit import insert_constant, insert_function
from fxcompress.masks.mask import masked
from fxcompress.quantization.quantized import quantized_layers, quantizer_calls
from fxcompress.quantizers.ops import DEQUANTIZE, INTEGER_RANGES, STORAGE, UNPACK, along, pack
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets import Target


def store_weight(
    graph_module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, *, in_integers: bool, created_by: str
) -> Tensor:
    """Put integers as a constant, and their dequantize, in the place of `node`, which rounds a weight by `quantizer`.

    Returns the integers.

    Integer kernels (`in_integers`) read 8 signed bits and no zero point: for them a weight is written relative to its zero
    point, which of fewer than 8 bits always fits, and 4 bits of it become 8 in the file itself. Where float kernels read it, a
    signed one has no zero point.
    """
    stem, kind = node.name.removesuffix("_quantizer"), quantizer.dtype
    weight, points = masked(graph_module, node.args[0]), quantizer.zero_point  # type: ignore[arg-type]
    block, narrow = quantizer.spec.group_size or 0, quantizer.spec.bits <= 4
    widened = in_integers and not block
    if not widened and quantizer.signed and points.any():  # OpenVINO unpacks only unsigned ones with a zero point quickly
        shift = -INTEGER_RANGES[kind][0]
        kind, points = f"u{kind}", points + shift
        stored = quantizer.integers(weight, STORAGE[kind], shift)
    elif widened and not narrow:
        stored, points, kind = _relative(quantizer, weight)
    else:
        stored = quantizer.integers(weight, STORAGE[kind])

    def constant(name: str, value: Tensor) -> fx.Node:
        return insert_constant(graph_module, f"{stem}_{name}", value, before=node, created_by=created_by)

    def call(target: Any, *args: Any, name: str, like: Tensor) -> fx.Node:
        return insert_function(target, *args, name=f"{stem}_{name}", value=like, before=node, created_by=created_by)

    scale, zero_point = constant("scale", quantizer.scale.detach().clone()), constant("zero_point", points.to(STORAGE[kind]))
    if narrow:
        packed, shape = constant(kind, pack(stored)), list(stored.shape)
        held = call(UNPACK, packed, shape, kind, name="unpack", like=stored.to("meta"))
    else:
        held = constant(kind, stored)
    grid = (scale, zero_point, quantizer.spec.scale_axis, kind, block, *([True] if widened and narrow else []))
    dequantized = call(DEQUANTIZE, held, *grid, name="dequantize", like=node.meta["val"])
    node.replace_all_uses_with(dequantized)
    graph_module.graph.erase_node(node)
    return stored


def _relative(quantizer: Quantizer, weight: Tensor) -> tuple[Tensor, Tensor, str]:
    """The integers of `weight` relative to their zero points, where that fits 8 signed bits; their zero points and type."""
    integers, points = quantizer.integers(weight, torch.int16), quantizer.zero_point
    relative = integers - along(points.to(torch.int16), quantizer.spec.scale_axis, quantizer.spec.group_size or 0, weight.shape)
    low, high = INTEGER_RANGES["int8"]
    if low <= relative.min() and relative.max() <= high:
        integers, points, kind = relative, torch.zeros_like(points), "int8"
    else:
        kind = quantizer.dtype
    return integers.to(STORAGE[kind]), points, kind


def read_by_integer_kernels(graph_module: fx.GraphModule, target: Target) -> set[fx.Node]:
    """The calls of weights' quantizers all of whose layers compute with quantized data as well."""
    layers, calls = quantized_layers(graph_module, target), quantizer_calls(graph_module)
    in_integers = {True: set[fx.Node](), False: set[fx.Node]()}
    for layer in layers:
        in_integers[any(calls[call].enabled for call in layer.activations)].update(layer.weights)
    return in_integers[True] - in_integers[False]
