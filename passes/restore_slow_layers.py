"""Leave layers in float that the runtime executes no faster in integers, by measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Lt
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError, PlanError
from fxcompress.ir.dialect import copy_graph
from fxcompress.measure import latency
from fxcompress.measure.latency import Kernel, seconds_of
from fxcompress.quantization.quantized import quantized_layers
from fxcompress.quantization.restoration import leave_in_float
from fxcompress.rewrite.rule import Replacement

TRIES = 4
"""Candidates that are tried one by one, where all together do not make the file faster."""


@dataclass(frozen=True)
class _Slow:
    """A layer with its milliseconds in integers and in float."""

    name: str
    integer: float
    real: float

    def __str__(self) -> str:
        return f"{self.name} ({self.integer:.3f} ms in integers, {self.real:.3f} ms in float)"


@dataclass(frozen=True, kw_only=True)
class RestoreSlowLayers(Pass):
    """Leave in float what is slower in integers, as OpenVINO runs the file on this machine.

    The float and the integer file are profiled kernel by kernel. Layers whose kernel takes longer in integers are
    candidates; they are restored, all together or else one by one, where that makes the whole file faster, measured side
    by side with the file without it. Small layers and depthwise convolutions are typical. Run it on the machine that the
    model is for, while nothing else runs.

    Args:
        margin: a candidate is slower in integers by at least this share of its time in float.
        gain: the whole file must become faster by at least this share, in the median of paired runs.
        max_layers: restore at most so many candidates, those that promise most.

    Raises:
        InputError: OpenVINO is not installed or not the target, or an option is out of its range.
    """

    margin: Annotated[float, Ge(0)] = 0.1
    gain: Annotated[float, Ge(0), Lt(1)] = 0.01
    max_layers: Annotated[int, Ge(1)] | None = None

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if context.target.name != "openvino":
            raise InputError(f"RestoreSlowLayers measures in OpenVINO, but the target is {context.target.name!r}")
        if context.reference is None:
            raise PlanError("RestoreSlowLayers compares with the model before it was quantized, and nobody kept that")
        context.progress("profiling layers", 0, None)
        variants = {"integer": graph_module, "float": context.reference}
        kernels = latency.measure_kernels(variants, context.example, context.lower)
        slow = self._candidates(graph_module, kernels["integer"], kernels["float"], context)[: self.max_layers]
        if not slow:
            context.notes.append("no layer is slower in integers than in float")
            return []
        chosen = self._choose(graph_module, slow, context)
        left = leave_in_float(graph_module, _nodes(graph_module, chosen), context.target, context.reference)
        return [Replacement.at(node) for node in left]

    def _candidates(
        self, graph_module: fx.GraphModule, integer: Sequence[Kernel], real: Sequence[Kernel], context: Context
    ) -> list[_Slow]:
        """Layers with a kernel of their own that takes longer in integers, the largest difference first."""
        assert context.reference is not None
        twins = {node.name: node for node in context.reference.graph.nodes}
        found = []
        for layer in quantized_layers(graph_module, context.target):
            pairs = (integer, layer.node), (real, twins.get(layer.node.name, layer.node))
            slow = _Slow(layer.node.name, *(seconds_of(kernels, node, context.target) * 1e3 for kernels, node in pairs))
            if slow.integer > slow.real * (1 + self.margin):
                found.append(slow)
        return sorted(found, key=lambda slow: slow.real - slow.integer)

    def _choose(self, graph_module: fx.GraphModule, slow: list[_Slow], context: Context) -> list[_Slow]:
        """Those whose restoration makes the whole file faster."""
        if self._helps(graph_module, [], slow, context):
            return slow
        chosen: list[_Slow] = []
        for done, one in enumerate(slow[:TRIES] if len(slow) > 1 else []):
            context.progress("trying layers in float", done, min(len(slow), TRIES))
            if self._helps(graph_module, chosen, [one], context):
                chosen.append(one)
        if not chosen:
            context.notes.append(f"{len(slow)} layers are slower in integers, but the file is not faster with them in float")
        return chosen

    def _helps(self, graph_module: fx.GraphModule, kept: list[_Slow], more: list[_Slow], context: Context) -> bool:
        """Whether the file is faster with `more` in float beside `kept`; if so, a note says how much."""
        variants = {"old": _restored(graph_module, kept, context), "new": _restored(graph_module, [*kept, *more], context)}
        seconds = latency.measure_latencies(variants, context.example, context.lower)
        helps = latency.is_faster(seconds["new"], seconds["old"], self.gain)
        if helps:
            old, new = (float(np.median(seconds[which])) * 1e3 for which in variants)
            context.notes.append(f"left in float: {', '.join(map(str, more))}; the whole file: {old:.2f} → {new:.2f} ms")
        return helps


def _restored(graph_module: fx.GraphModule, slow: list[_Slow], context: Context) -> fx.GraphModule:
    """A copy of `graph_module` with these layers in float."""
    copy = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
    leave_in_float(copy, _nodes(copy, slow), context.target, context.reference)
    return copy


def _nodes(graph_module: fx.GraphModule, slow: list[_Slow]) -> list[fx.Node]:
    names = {one.name for one in slow}
    return [node for node in graph_module.graph.nodes if node.name in names]
