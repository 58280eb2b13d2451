"""Take the layers that cost most out of the integers, or give their weights more bits: a few of them, or as many as fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor, fx, nn

from fxcompress.data.samples import in_small_batches, samples_of
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.driver.sizes import weight_bytes
from fxcompress.emit.openvino import require_openvino
from fxcompress.errors import InputError, PlanError, apart, source_line
from fxcompress.ir.dialect import copy_graph
from fxcompress.measure.loss import Loss, Tolerance, with_unit
from fxcompress.measure.prices import prices
from fxcompress.measure.sensitivity import CHUNK
from fxcompress.quantization.allocation import allocate
from fxcompress.quantization.noise import Place, measure_noise
from fxcompress.quantization.quantized import Layer, quantized_layers, quantizer_calls
from fxcompress.quantization.restoration import added_bytes, leave_in_float, widen
from fxcompress.rewrite.rule import Replacement

LOUDEST = 30
"""The power of ten that noise counts as at most, against the signal: infinite noise does not add up."""


Batches = list[tuple[list[Tensor], int]]
"""Flattened inputs, each with its number of samples."""


@dataclass(frozen=True, kw_only=True)
class RestorePrecision(Pass):
    """Leave the worst layers in float, one by one, until the loss is tolerable, or as many of them as a size allows.

    Layers are ranked once by the noise that each makes alone (see `fxcompress.sensitivity`); after each that is restored
    the whole model is measured again, and the first one that meets what was asked for is the last. The idea of NNCF's
    ``quantize_with_accuracy_control``. List it after `Calibrate`, and before passes that make up for quantization.

    Under a size, those layers are candidates that make most noise together, by themselves, of all that fit into it: a
    knapsack (`fxcompress.quantization.allocation`). Where nothing is said of the loss, all of them are restored. So
    ``bits=8, max_size=0.16`` behind 4-bit weights is mixed precision that needs neither labels nor gradients.

    Args:
        min_decibels: SQNR of the outputs that must be reached, against the model before it was quantized.
        metric: the quality of a model, larger is better, as ``metric(model) -> float``, on data of your own.
        tolerance: how far the metric may stay below that of the model before it was quantized, in its own unit.
        max_layers: restore at most so many.
        max_size: the share of the original model's bytes that the weights may take: all constants, with scales and zero
            points. In a file the graph comes on top, some 400 bytes an operation.
        bits: give the layers' weights so many bits, where they have fewer, rather than float.
        samples: of the calibration data, to rank layers and measure decibels on.
        latency: note what each restored layer costs in milliseconds, measured in OpenVINO, and what the whole file does.

    Raises:
        InputError: neither `min_decibels` nor `metric` nor `max_size` is given, an option is out of its range, there is no
            data, the metric is not a number, or the weights are larger than `max_size` before anything is restored.
    """

    min_decibels: float | None = None
    metric: Callable[[nn.Module], float] | None = None
    tolerance: Annotated[float, Ge(0)] = 0.0
    max_layers: Annotated[int, Ge(1)] | None = None
    max_size: Annotated[float, Gt(0)] | None = None
    bits: Annotated[int, Ge(3), Le(8)] | None = None
    samples: Annotated[int, Ge(1)] = 32
    latency: bool = False

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def __post_init__(self) -> None:
        if not self._tolerance.is_known and self.max_size is None:
            raise InputError(
                "RestorePrecision needs to know what is tolerable: give min_decibels, or metric and tolerance, or max_size"
            )
        if self.tolerance and self.metric is None:
            raise InputError("tolerance is how much the metric may lose: give metric, or say min_decibels instead")
        if self.latency:
            require_openvino("measuring latency")

    @property
    def size_limit(self) -> float | None:
        return self.max_size

    @property
    def _tolerance(self) -> Tolerance:
        return Tolerance(self.min_decibels, self.metric, self.tolerance)

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        before = fx.GraphModule(graph_module, copy_graph(graph_module.graph)) if self.latency else graph_module
        restored = self._restore_worst(graph_module, context)
        if self.latency and restored:
            context.progress("measuring latency", 0, None)
            names = [done.node for done in restored]
            context.notes += prices(before, graph_module, names, context.example, context.lower, context.target)
        return restored

    def _restore_worst(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if context.reference is None:
            raise PlanError("RestorePrecision compares with the model before it was quantized, and nobody kept that")
        # Read once: a loader may shuffle, and the same samples must be compared.
        graph = graph_module.graph
        batches = list(in_small_batches(graph, samples_of(graph, context, self.samples), CHUNK))
        loss = Loss(self._tolerance, graph_module, context.reference, [leaves for leaves, _ in batches])
        before = loss.measure()
        if before.met:
            context.notes.append(f"{before}: nothing to restore")
            return []
        restored: list[Replacement] = []
        room = self._room(graph_module, context)
        ranked = self._ranked(graph_module, context, batches)
        fitting = self._fitting(graph_module, ranked, room, context)
        for done, place in enumerate(fitting[: self.max_layers]):
            context.progress("restoring precision", done, self.max_layers or len(fitting))
            names = self._restore(graph_module, place, context)
            if not names:
                continue
            given = "left in float" if self.bits is None else f"given {self.bits} bits"
            told = f"{', '.join(names)} ({with_unit(place.decibels)} by itself) {given}"
            restored += [Replacement("", name, name, source_line(place.node)) for name in names]
            if not self._tolerance.is_known:
                context.notes.append(told)
                continue
            after = loss.measure()
            context.notes.append(f"{told}: {before} → {after}")
            before = after
            if after.met:
                return restored
        if self._tolerance.is_known:
            context.notes.append(f"what was asked for is not reached: {before}; {self._remedy(ranked, fitting)}")
        else:
            size = f"the weights take {_share(graph_module, context):.4g} of the original model's size"
            context.notes.append(f"{len(restored)} of {len(ranked)} layers: {before} → {loss.measure()}; {size}")
        return restored

    def _ranked(self, graph_module: fx.GraphModule, context: Context, batches: Batches) -> list[Place]:
        """The layers that can be restored, by their own noise, worst first."""
        layers = quantized_layers(graph_module, context.target)
        if self.bits is not None:
            calls = quantizer_calls(graph_module)
            layers = [_weights_alone(one) for one in layers if any(calls[call].spec.bits < self.bits for call in one.weights)]
        places = [Place(layer.node, layer) for layer in layers]
        measure_noise(graph_module, places, batches, context.progress, self.samples, context.reference)
        return sorted(places, key=lambda place: place.decibels)

    def _room(self, graph_module: fx.GraphModule, context: Context) -> int | None:
        """How many bytes `max_size` leaves for restoring; None for no limit."""
        if self.max_size is None:
            return None
        share = _share(graph_module, context)
        if share > self.max_size:
            taken, asked = apart(share, self.max_size, ".4g")
            raise InputError(
                f"the weights take {taken} of the original model's size before anything is restored, which is more than "
                f"max_size={asked}; give Quantize weights of fewer bits or larger groups"
            )
        return math.floor((self.max_size / share - 1) * weight_bytes(graph_module)) if share else 0

    def _fitting(self, graph_module: fx.GraphModule, ranked: list[Place], room: int | None, context: Context) -> list[Place]:
        """Those of `ranked`, in its order, whose noise is largest in all of what there is room for."""
        if room is None:
            return ranked
        layers = [place.layer for place in ranked if place.layer]
        costs = [[0, added_bytes(graph_module, layer, self.bits, context.target)] for layer in layers]
        noise = [[10 ** min(-place.decibels / 10, LOUDEST), 0.0] for place in ranked]
        taken = allocate(costs, noise, room)
        assert taken is not None  # to restore nothing costs nothing
        return [place for place, chosen in zip(ranked, taken) if chosen]

    def _restore(self, graph_module: fx.GraphModule, place: Place, context: Context) -> list[str]:
        """Restore one layer; the names of all that left the integers, or got more bits, with it."""
        if self.bits is None:
            left = leave_in_float(graph_module, [place.node], context.target, context.reference)
            return [node.name for node in left]
        calls = quantizer_calls(graph_module)
        assert place.layer is not None
        narrow = any(calls[call].spec.bits < self.bits for call in place.layer.weights)
        if narrow:  # not where a layer that shares its weight was widened before
            widen(graph_module, place.layer, self.bits, context.target, context.reference)
        return [place.node.name] if narrow else []

    def _remedy(self, ranked: list[Place], fitting: list[Place]) -> str:
        if self.max_layers is not None and self.max_layers < len(fitting):
            return f"raise max_layers={self.max_layers}"
        if len(fitting) < len(ranked):
            return f"raise max_size={self.max_size:g}"
        return "no layer is left to restore" if self.bits is None else "leave bits out, so that layers return to float"


def _share(graph_module: fx.GraphModule, context: Context) -> float:
    """What the weights take now, as a share of what those of the model took before the first pass; 0 where it has none."""
    assert context.original is not None
    before = weight_bytes(fx.GraphModule(graph_module, copy_graph(context.original)))
    return weight_bytes(graph_module) / before if before else 0.0


def _weights_alone(layer: Layer) -> Layer:
    """`layer` with the quantizers of its weights only."""
    return replace(layer, activations=(), cone=tuple(met for met in layer.cone if met not in layer.activations))
