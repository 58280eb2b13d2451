"""Activations smoothed in a graph: the layers that make up for it in their weights, and who takes up the factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_call, insert_constant
from fxcompress.ir.signature import argument
from fxcompress.quantization.smoothing import Smoothing

LINEAR, TRANSPOSE, LAYER_NORM, MULTIPLY, ADD = map(resolve, ("linear", "transpose", "layer_norm", "mul", "add"))


class ConstantLinear:
    """A linear layer, and the constant behind its weight: `rows` is [outputs, inputs], `tensor` perhaps its transpose."""

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node):
        self.node, weight = node, node.args[1]
        self.constant = _constant_behind(weight)
        self.transposed = weight is not self.constant
        self.reader = weight if self.transposed else node
        self.tensor = attribute(graph_module, self.constant.target).detach()
        self.rows = self.tensor.T if self.transposed else self.tensor
        bias = argument(node, "bias")
        self.bias = None if bias is None else attribute(graph_module, bias.target).detach()


def linear_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The linear layers with constant weights that read each value of three dimensions or more."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for linear in graph.find_nodes(op="call_function", target=LINEAR):
        value, bias = linear.args[0], argument(linear, "bias")
        constant = _constant_behind(linear.args[1]) is not None and (bias is None or bias.op == "get_attr")
        if value.op == "call_function" and value.meta["val"].dim() >= 3 and constant:
            found.setdefault(value, []).append(linear)
    return found


def _is_scaled_by_constants(value: fx.Node) -> bool:
    """Whether `value` is scaled by constants: a layer norm, or a product with one."""
    scales = {LAYER_NORM: ("weight", "bias"), MULTIPLY: ("other",)}.get(value.target, ())
    constants = [argument(value, name) for name in scales]
    return bool(scales) and all(held is None or (isinstance(held, fx.Node) and held.op == "get_attr") for held in constants)


def _constant_behind(weight: Any) -> Any:
    """The constant that `weight` is, or is the transpose of, or None."""
    source = weight.args[0] if weight.target is TRANSPOSE else weight
    return source if source.op == "get_attr" else None


def read_smoothed(value: fx.Node, layers: Sequence[ConstantLinear]) -> dict[fx.Node, str]:
    """The calls whose constants smoothing `value` for `layers` alters, and along what."""
    found = {reader: "columns" if layer.transposed else "rows" for layer in layers for reader in (layer.reader, layer.node)}
    return found | ({value: "scales"} if _takes_up_factors(value, layers) else {})


def smooth(
    graph_module: fx.GraphModule, value: fx.Node, layers: Sequence[ConstantLinear], chosen: Smoothing, created_by: str
) -> None:
    """Let `layers` read `value` smoothed as `chosen`, and compute what they computed before."""
    for layer in layers:
        _make_up(graph_module, layer, chosen, created_by)
    linears, factor, shift = [layer.node for layer in layers], chosen.factor, chosen.shift
    alone = _takes_up_factors(value, layers)
    if alone and value.target is LAYER_NORM:
        _smooth_layer_norm(graph_module, value, chosen, created_by)
        return
    if alone:
        held = value.args[1]
        divided = attribute(graph_module, held.target).detach() / factor
        value.replace_input_with(held, _constant(graph_module, held.target, divided, value, created_by, held))
    else:
        value = _insert(graph_module, MULTIPLY, value, linears, ("smoothed", 1 / factor), created_by)
    if shift is not None:
        _insert(graph_module, ADD, value, linears, ("centred", -shift / factor), created_by)


def _takes_up_factors(value: fx.Node, layers: Sequence[ConstantLinear]) -> bool:
    return value.users.keys() == {layer.node for layer in layers} and _is_scaled_by_constants(value)


def _make_up(graph_module: fx.GraphModule, layer: ConstantLinear, chosen: Smoothing, created_by: str) -> None:
    """Let `layer` compute from ``(x - shift) / factor`` what it computed from x."""
    factor = chosen.factor
    smoothed = layer.tensor * (factor[:, None] if layer.transposed else factor)
    name = f"{layer.constant.target}_smoothed"
    made = _constant(graph_module, name, smoothed, layer.reader, created_by, layer.constant)
    layer.reader.replace_input_with(layer.constant, made)
    if chosen.shift is not None:
        bias = layer.rows @ chosen.shift + (0.0 if layer.bias is None else layer.bias)
        name, old = f"{layer.constant.target}_centred_bias", argument(layer.node, "bias")
        held = _constant(graph_module, name, torch.nn.Parameter(bias), layer.node, created_by, old)
        layer.node.args = (*layer.node.args[:2], held)


def _smooth_layer_norm(graph_module: fx.GraphModule, norm: fx.Node, chosen: Smoothing, created_by: str) -> None:
    shape = argument(norm, "normalized_shape")
    held = {"weight": torch.ones(shape), "bias": torch.zeros(shape)}
    for name in held:
        if (constant := argument(norm, name)) is not None:
            held[name] = attribute(graph_module, constant.target).detach()
    smoothed = {"weight": held["weight"] / chosen.factor, "bias": chosen(held["bias"])}
    made = [
        _constant(graph_module, f"{norm.name}_{name}_smoothed", torch.nn.Parameter(x), norm, created_by, argument(norm, name))
        for name, x in smoothed.items()
    ]
    norm.args = (*norm.args[:2], *made, *norm.args[4:])


def _insert(
    graph_module: fx.GraphModule,
    operation: OpOverload,
    value: fx.Node,
    readers: Sequence[fx.Node],
    named: tuple[str, Tensor],
    created_by: str,
) -> fx.Node:
    """Let `readers` read `operation` of `value` and a constant, whose name and tensor are `named`."""
    name, operand = named
    node = insert_call(value, readers, operation, name=f"{value.name}_{name}", created_by=created_by)
    node.args = (value, _constant(graph_module, f"{value.name}_{name}_by", operand, node, created_by))
    return node


def _constant(
    graph_module: fx.GraphModule, name: str, value: Tensor, before: fx.Node, created_by: str, replaces: fx.Node | None = None
) -> fx.Node:
    return insert_constant(graph_module, name, value, before=before, created_by=created_by, replaces=replaces)
