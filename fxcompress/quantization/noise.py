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
from fxcompress.precision import channels_last
from fxcompress.quantization.quantized import Layer, quantized_layers, quantizer_calls, serves_weight
from fxcompress.targets.table import Target
from fxcompress.verify import RunningSqnr

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
) -> Noise:
    """Run `batches` (flattened inputs and their number of samples) with each of `places` quantized alone.

    For each batch the float values of the whole graph are computed once and kept; for each place only what is downstream of
    it runs again. So memory holds twice the activations of one batch.

    Args:
        samples: how many to expect, for `progress`.

    Raises:
        PlanError: a quantizer has no range yet.
        InputError: no output is floating-point.
    """
    for call, quantizer in quantizer_calls(graph_module).items():
        if not quantizer.ready:
            raise PlanError(f"the quantizer {describe(call)} has no range; list Calibrate() after Quantize()")
    run = _Run(graph_module)
    downstream = {place: _downstream(place.node) for place in places}
    together, seen = RunningSqnr(), 0
    for leaves, count in batches:
        run.start(leaves)
        together.update(run.reference, run.quantized(run.calls))
        for done, place in enumerate(places):
            if samples:
                progress("measuring sensitivity", seen * len(places) + done * count, samples * len(places))
            place.sqnr.update(run.reference, run.alone(place, downstream[place]))
        seen += count
    return Noise(tuple(places), together, seen)


class _Run(fx.Interpreter):
    """One batch in float, and again in part with some quantizers at work."""

    def __init__(self, graph_module: fx.GraphModule):
        super().__init__(graph_module, garbage_collect_values=False)
        self.calls = quantizer_calls(graph_module)
        self.active: Iterable[fx.Node] = ()
        self.base: dict[fx.Node, Any] = {}
        self.order = list(graph_module.graph.nodes)

    def start(self, leaves: Sequence[Tensor]) -> None:
        """Compute and keep the float value of every node."""
        self.active = ()
        self.reference = float_outputs(self.run(*channels_last(leaves), enable_io_processing=False))
        self.base = self.env

    def quantized(self, active: Iterable[fx.Node]) -> list[Tensor]:
        """The outputs with the quantizers `active` at work."""
        computed = [node for node in self.order if node.op not in ("placeholder", "get_attr")]
        return float_outputs(self._again(computed, {}, active)[self.order[-1]])

    def alone(self, place: Place, downstream: set[fx.Node]) -> list[Tensor]:
        """The outputs with `place` quantized and nothing else, other readers of what it reads included."""
        if place.layer is None:
            start = self._again([place.node], {}, [place.node])
        else:
            start = self._again([*place.layer.cone, place.node], {}, place.layer.cone)
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
        if n not in self.calls:
            return super().run_node(n)
        x = self.env[n.args[0]]
        return self.calls[n](x) if n in self.active else x


def _downstream(node: fx.Node) -> set[fx.Node]:
    """All that depends on the value of `node`."""
    found: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user not in found:
            found.add(user)
            waiting += user.users
    return found
