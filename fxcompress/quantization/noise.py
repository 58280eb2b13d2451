"""What each quantized place of a graph does to the outputs when all other places compute in float."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.errors import InputError, PlanError, describe
from fxcompress.execution.agreement import RunningSqnr
from fxcompress.execution.precision import channels_last
from fxcompress.ir.edit import attribute, tensor_of
from fxcompress.ir.reach import reached
from fxcompress.masks.mask import source_constant
from fxcompress.quantization.quantized import Layer, quantized_layers, quantizer_calls, serves_weight
from fxcompress.targets.table import Target

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Place:
    """What is quantized by itself: a layer with its weight and what it reads, or one activation for all its readers.

    Attributes:
        node: the operation, or the call of the quantizer.
        layer: the layer; None for an activation.
        sqnr: of the outputs, with this place alone quantized.
    """

    node: fx.Node
    layer: Layer | None = None
    sqnr: RunningSqnr = field(default_factory=RunningSqnr)

    @property
    def decibels(self) -> float:
        return self.sqnr.decibels


@dataclass(frozen=True)
class Noise:
    """Each place by itself, in the order of the graph, and everything quantized together."""

    places: tuple[Place, ...]
    together: RunningSqnr
    samples: int


def float_outputs(value: Any) -> list[Tensor]:
    """The floating-point tensors among the outputs: decibels say nothing about the others.

    Raises:
        InputError: there is none.
    """
    found = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise InputError("the model has no floating-point output to take decibels of; let it return its logits")
    return found


def layers_and_activations(graph_module: fx.GraphModule, target: Target) -> list[Place]:
    """All places of a quantized graph, in its order."""
    layers = [Place(layer.node, layer) for layer in quantized_layers(graph_module, target)]
    calls = [Place(call) for call in quantizer_calls(graph_module) if not serves_weight(call)]
    ranks = {node: rank for rank, node in enumerate(graph_module.graph.nodes)}
    return sorted([*layers, *calls], key=lambda place: ranks[place.node])


@torch.inference_mode()
def measure_noise(
    graph_module: fx.GraphModule,
    places: Sequence[Place],
    batches: Iterable[tuple[list[Tensor], int]],
    progress: Progress = lambda description, done, total: None,
    samples: int | None = None,
    reference: fx.GraphModule | None = None,
) -> Noise:
    """Run `batches` (flattened inputs and their number of samples) with each of `places` quantized alone.

    For each batch the float values of the whole graph are computed once and kept; for each place only what is downstream of
    it runs again. So memory holds twice the activations of one batch.

    Args:
        samples: how many to expect, for `progress`.
        reference: the model before quantizers were inserted, whose weights are the float ones where a pass has put others,
            that lie on the grid already, in front of a quantizer.

    Raises:
        PlanError: a quantizer has no range yet.
        InputError: no output is floating-point.
    """
    for call, quantizer in quantizer_calls(graph_module).items():
        if not quantizer.ready:
            raise PlanError(f"the quantizer {describe(call)} has no range; list Calibrate() after Quantize()")
    run = _Run(graph_module, reference)
    downstream = {place: _downstream(place.node) for place in places}
    together, seen = RunningSqnr(), 0
    for leaves, count in batches:
        run.start(leaves)
        together.update(run.reference, run.quantized())
        for done, place in enumerate(places):
            if samples:
                progress("measuring sensitivity", seen * len(places) + done * count, samples * len(places))
            place.sqnr.update(run.reference, run.alone(place, downstream[place]))
        seen += count
    return Noise(tuple(places), together, seen)


class _Run(fx.Interpreter):
    """One batch in float, and again in part with some quantizers, and the weights that passes made for them, at work."""

    def __init__(self, graph_module: fx.GraphModule, reference: fx.GraphModule | None):
        super().__init__(graph_module, garbage_collect_values=False)
        self.calls = quantizer_calls(graph_module)
        self.float_weights = _float_weights(graph_module, reference) if reference else {}
        self.active: Iterable[fx.Node] = ()
        self.base: dict[fx.Node, Any] = {}
        self.order = list(graph_module.graph.nodes)

    def start(self, leaves: Sequence[Tensor]) -> None:
        """Compute and keep the float value of every node."""
        self.active = ()
        self.reference = float_outputs(self.run(*channels_last(leaves), enable_io_processing=False))
        self.base = self.env

    def quantized(self) -> list[Tensor]:
        """The outputs with everything at work."""
        computed = [node for node in self.order if node in self.float_weights or node.op not in ("placeholder", "get_attr")]
        return float_outputs(self._again(computed, {}, {*self.calls, *self.float_weights})[self.order[-1]])

    def alone(self, place: Place, downstream: set[fx.Node]) -> list[Tensor]:
        """The outputs with `place` quantized and nothing else, other readers of what it reads included."""
        if place.layer is None:
            start = self._again([place.node], {}, [place.node])
        else:
            exchanged = [call for call in place.layer.weights if source_constant(call) in self.float_weights]
            behind = [node for call in exchanged for node in _behind(call)]
            start = self._again([*behind, *place.layer.cone, place.node], {}, {*behind, *place.layer.cone})
        rest = [node for node in self.order if node in downstream]
        values = self._again(rest, {place.node: start[place.node]}, ())
        return float_outputs(values[self.order[-1]])

    def _again(self, nodes: Iterable[fx.Node], given: dict[fx.Node, Any], active: Iterable[fx.Node]) -> Any:
        """All values after `nodes` were computed again from those that are `given` and the float ones."""
        self.env: Any = ChainMap(given, self.base)
        self.active = active
        for node in nodes:
            self.env[node] = self.run_node(node)
        return self.env

    def run_node(self, n: fx.Node) -> Any:
        if n in self.float_weights and n not in self.active:
            return self.float_weights[n]
        if n not in self.calls:
            return super().run_node(n)
        x = self.env[n.args[0]]
        return self.calls[n](x) if n in self.active else x


def _float_weights(graph_module: fx.GraphModule, reference: fx.GraphModule) -> dict[fx.Node, Tensor]:
    """The tensors of `reference` for the constants, behind quantizers, that are others in `graph_module`."""
    twins = {node.name: node for node in reference.graph.nodes}
    found: dict[fx.Node, Tensor] = {}
    for call in filter(serves_weight, quantizer_calls(graph_module)):
        constant = source_constant(call)
        for reader in call.users:
            arguments = twins[reader.name].args if reader.name in twins else ()
            held = arguments[reader.args.index(call)] if call in reader.args[: len(arguments)] else None
            original = source_constant(held) if isinstance(held, fx.Node) else None
            if original is not None:
                tensor = tensor_of(reference, original)
                if constant.op == "get_attr" and tensor is not attribute(graph_module, constant.target):
                    found[constant] = tensor
    return found


def _behind(call: fx.Node) -> list[fx.Node]:
    """The constant that the quantizer `call` rounds, and the masks between, in the order of the graph."""
    found = [call.args[0]]
    while found[0].op == "call_module":  # type: ignore[union-attr]
        found.insert(0, found[0].args[0])  # type: ignore[union-attr]
    return found  # type: ignore[return-value]


def _downstream(node: fx.Node) -> set[fx.Node]:
    """All that depends on the value of `node`."""
    return set(reached(node.users, lambda one: one.users))
