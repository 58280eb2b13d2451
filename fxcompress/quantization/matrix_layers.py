"""Layers whose quantized weight is a matrix, as passes that mend them see them, and the models that show what to mend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.data.batch import Leaves
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.precision import Precision
from fxcompress.ir.constants import is_constant
from fxcompress.ir.edit import insert_constant, is_of_a_pass, name_of, tensor_of
from fxcompress.ir.sharing import others_read
from fxcompress.ir.signature import argument
from fxcompress.masks.mask import combined, masked, replace_constant, source_constant
from fxcompress.quantization.patches import LINEAR, MATRIX_PRODUCTS, weight_rows
from fxcompress.quantization.quantized import quantizer_of, serves_weight
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets.table import Target


@dataclass(frozen=True)
class Call:
    """A call of a layer: `node` in the quantized model's graph, `twin` in the float model's."""

    node: fx.Node
    twin: fx.Node


@dataclass(frozen=True)
class MatrixLayer:
    """A convolution or linear layer whose weight is quantized.

    Attributes:
        graph_module: the quantized model.
        reference: the float model.
        calls: of the layer, in the order of the graph; they differ in what they read, and in nothing else.
        created_by: the pass at work, recorded on what it makes.
    """

    graph_module: fx.GraphModule
    reference: fx.GraphModule
    calls: tuple[Call, ...]
    created_by: str

    @property
    def nodes(self) -> list[fx.Node]:
        """The operations in the quantized model's graph."""
        return [call.node for call in self.calls]

    @property
    def node(self) -> fx.Node:
        """The first of them, which the layer is told by."""
        return self.calls[0].node

    @property
    def twin(self) -> fx.Node:
        """The first operation in the float model's."""
        return self.calls[0].twin

    @property
    def weight(self) -> Tensor:
        """The float model's, with the zeros of its masks."""
        return masked(self.reference, self.twin.args[1])

    @property
    def made(self) -> Tensor | None:
        """What the float model holds for its weight, where a pass made it: nobody but the float model reads that."""
        constant = source_constant(self.twin.args[1])
        known = constant.op == "get_attr" and is_of_a_pass(constant)
        return tensor_of(self.reference, constant) if known else None

    @property
    def quantizer(self) -> Quantizer:
        """The weight's."""
        return self.graph_module.get_submodule(self.node.args[1].target)

    @property
    def bias(self) -> Tensor | None:
        """The quantized model's, shape ``[channels]``."""
        node = argument(self.node, "bias")
        return None if node is None else masked(self.graph_module, node)

    @property
    def channel_axis(self) -> int:
        """The axis of the output that counts output channels."""
        return -1 if self.node.target is LINEAR else 1

    @property
    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element of the weight, as `weight_rows` orders them."""
        scale, zero_point = self.quantizer.broadcast(self.weight.shape)
        return weight_rows(self.node, scale.expand_as(self.weight)), weight_rows(self.node, zero_point.expand_as(self.weight))

    @property
    def free(self) -> Tensor | None:
        """Which elements of the weight are not masked, as `weight_rows` orders them; None for all."""
        mask = self.node.args[1].args[0]
        return None if is_constant(mask) else weight_rows(self.node, combined(self.graph_module, mask) != 0)

    @property
    def integers(self) -> Tensor:
        """The weight in the quantized model as it stands, as float, as `weight_rows` orders it."""
        return weight_rows(self.node, self.quantizer.integers(self._present))

    def run(self, x: Tensor) -> Tensor:
        """What the operation puts out in the quantized model as it stands."""
        return self.node.target(x, self.quantizer(self._present), self.bias, *self.node.args[3:])

    def set_integers(self, integers: Tensor) -> None:
        """Let the quantizer read the weight of these integers, as `weight_rows` orders them, from now on.

        A channel of which a pair would saturate (`QuantizationSpec.pairs`) keeps the nearest ones.
        """
        integers = integers.reshape(self.weight.shape)
        beyond = self.quantizer.pairs_beyond(integers)
        if beyond.any():
            nearest = self.quantizer.integers(self.weight)
            integers = torch.where(beyond.reshape(-1, *[1] * (integers.dim() - 1)), nearest, integers)
        quantize = self.node.args[1]
        known = source_constant(quantize)
        scale, zero_point = self.quantizer.broadcast(self.weight.shape)
        weight = (integers - zero_point) * scale
        name = name_of(source_constant(self.twin.args[1]))
        replace_constant(quantize, self._constant(f"{name}_rounded", weight, known.next, known))

    def set_bias(self, bias: Tensor) -> None:
        """Let the operation add `bias`, shape ``[channels]``, in place of the bias it has."""
        known = argument(self.node, "bias")
        constant = None if known is None else source_constant(known)
        name = f"{self.node.name}_bias" if constant is None else f"{name_of(constant)}_corrected"
        if constant is not None and known.op == "call_module" and _is_read_by(self.nodes, known):
            replace_constant(known, self._constant(name, bias, constant.next, constant))
        else:
            new = self._constant(name, bias, self.node, constant)
            for node in self.nodes:
                node.args = (*node.args[:2], new, *node.args[3:])

    @property
    def _present(self) -> Tensor:
        """What the quantizer reads."""
        return masked(self.graph_module, self.node.args[1].args[0])

    def _constant(self, name: str, value: Tensor, before: fx.Node, old: fx.Node | None) -> fx.Node:
        """In the place of `old`; a parameter that training can go on from, unless that is none."""
        kept = torch.nn.Parameter(value.detach().clone())
        return insert_constant(self.graph_module, name, kept, before=before, created_by=self.created_by, replaces=old)


def matrix_layers(
    quantized: fx.GraphModule, reference: fx.GraphModule, target: Target, created_by: str, notes: list[str]
) -> list[MatrixLayer]:
    """The convolutions and linear layers in `quantized` whose quantized constant nothing else reads, as the graph orders them.

    Args:
        reference: the same graph before quantizers were inserted.
        target: says which operations have weights.
        notes: takes one on the layers whose weight is read in other ways as well.
    """
    float_nodes = {node.name: node for node in reference.graph.nodes}
    calls = defaultdict[fx.Node, list[Call]](list)
    for node in quantized.graph.nodes:
        if node.target in MATRIX_PRODUCTS and node.target in target.weighted and node.name in float_nodes:
            weight = node.args[1]
            if quantizer_of(quantized, weight) and serves_weight(weight):
                calls[weight].append(Call(node, float_nodes[node.name]))
    found, left = list[MatrixLayer](), list[str]()
    for weight, own in calls.items():
        layer = MatrixLayer(quantized, reference, tuple(own), created_by)
        if _is_read_by(layer.nodes, weight) and all(
            _but_for_the_input(node) == _but_for_the_input(layer.node) for node in layer.nodes
        ):
            found.append(layer)
        else:
            left.append(layer.node.name)
    notes += others_read(left)
    return found


def _but_for_the_input(node: fx.Node) -> tuple[Any, ...]:
    return node.target, node.args[1:], node.kwargs


def _is_read_by(readers: Sequence[fx.Node], call: fx.Node) -> bool:
    """Whether nothing but `readers` reads `call`, and each mask in front of it has one reader."""
    if call.users.keys() != set(readers):
        return False
    while (call := call.args[0]).op == "call_module":
        if len(call.users) != 1:
            return False
    return True


Pair = tuple[Execution, Execution]
"""The runs of the float model and of the quantized one on the same inputs."""


def in_step(
    layers: Sequence[MatrixLayer], reference: fx.GraphModule, quantized: fx.GraphModule, batches: Sequence[Leaves]
) -> Iterator[tuple[MatrixLayer, Call, list[Pair]]]:
    """Each call of each layer with the runs of either model on each of `batches`, the float one first, just before the call.

    What is done to a layer before the next call is asked for takes effect: so it is done at its last. A layer is left out from
    a call on that reads nothing, or not as much in either model, as an expert does to which other tokens go.
    """
    pairs = [(Execution(reference, inputs), Execution(quantized, inputs)) for inputs in batches]
    left = set[fx.Node]()
    for layer, call in _in_order(layers):
        shapes = []
        for before, after in pairs:
            before.advance(call.twin)
            after.advance(call.node)
            shapes.append((before.value(call.twin.args[0]).shape, after.value(call.node.args[0]).shape))
        if any(one != other for one, other in shapes) or not any(one.numel() for one, _ in shapes):
            left.add(layer.node)
        if layer.node not in left:
            yield layer, call, pairs


@torch.no_grad()
def float_inputs(
    layers: Sequence[MatrixLayer], reference: fx.GraphModule, batches: Sequence[Leaves], precision: Precision = "float32"
) -> Iterator[tuple[MatrixLayer, Call, list[Tensor]]]:
    """Each call of each layer with what it reads, a tensor a batch, when `reference`, the float model, runs on `batches`.

    Runs no further than the last call.
    """
    arithmetic = choose_arithmetic(precision, reference, batches[0])
    runs = [Execution(reference, inputs, arithmetic) for inputs in batches]
    for layer, call in _in_order(layers):
        for run in runs:
            run.advance(call.twin)
        inputs = (run.value(call.twin.args[0]) for run in runs)
        yield layer, call, [x for x in inputs if x.numel()]


def _in_order(layers: Sequence[MatrixLayer]) -> list[tuple[MatrixLayer, Call]]:
    """The calls of all `layers`, as their graph orders them."""
    order = {node: position for layer in layers[:1] for position, node in enumerate(layer.graph_module.graph.nodes)}
    return sorted(((layer, call) for layer in layers for call in layer.calls), key=lambda one: order[one[1].node])
