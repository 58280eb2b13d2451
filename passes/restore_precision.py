"""Take the few layers that cost most out of the integers, or give their weights more bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxcompress import latency
from fxcompress.dialect import copy_graph
from fxcompress.effect import Effect
from fxcompress.errors import InputError, PlanError, source_line
from fxcompress.pipeline import Context, Pass
from fxcompress.quality import quality
from fxcompress.quantization.noise import Place, float_outputs, measure_noise
from fxcompress.quantization.quantized import Layer, quantized_layers, quantizer_calls
from fxcompress.quantization.restoration import leave_in_float, widen
from fxcompress.report import readable_decibels
from fxcompress.rewrite import Replacement
from fxcompress.samples import in_small_batches, samples_of
from fxcompress.sensitivity import CHUNK
from fxcompress.verify import RunningSqnr


@dataclass(frozen=True, kw_only=True)
class RestorePrecision(Pass):
    """Leave the worst layers in float, one by one, until the loss is tolerable.

    Layers are ranked once by the noise that each makes alone (see `fxcompress.sensitivity`); after each that is restored
    the whole model is measured again, and the first one that meets what was asked for is the last. The idea of NNCF's
    ``quantize_with_accuracy_control``. List it after `Calibrate`, and before passes that make up for quantization.

    Args:
        min_decibels: SQNR of the outputs that must be reached, against the model before it was quantized.
        metric: the quality of a model, larger is better, as ``metric(model) -> float``, on data of your own.
        tolerance: how far the metric may stay below that of the model before it was quantized, in its own unit.
        max_layers: restore at most so many.
        bits: give the layers' weights so many bits, where they have fewer, rather than float.
        samples: of the calibration data, to rank layers and measure decibels on.
        latency: note what each restored layer costs in milliseconds, measured in OpenVINO, and what the whole file does.

    Raises:
        InputError: neither `min_decibels` nor `metric` is given, an option is out of its range, there is no data, or the
            metric is not a number.
    """

    min_decibels: float | None = None
    metric: Callable[[nn.Module], float] | None = None
    tolerance: float = 0.0
    max_layers: int | None = None
    bits: int | None = None
    samples: int = 32
    latency: bool = False

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def __post_init__(self) -> None:
        if self.min_decibels is None and self.metric is None:
            raise InputError("RestorePrecision needs to know what is tolerable: give min_decibels, or metric and tolerance")
        if self.metric is not None and not callable(self.metric):
            raise InputError(f"metric is a function of the model that returns a number, not {self.metric!r}")
        if self.min_decibels is not None and not math.isfinite(self.min_decibels):
            raise InputError(f"min_decibels must be a finite number, got {self.min_decibels}")
        if not 0 <= self.tolerance < math.inf:
            raise InputError(f"tolerance must be 0 or more, in the unit of the metric, got {self.tolerance}")
        if self.tolerance and self.metric is None:
            raise InputError("tolerance is how much the metric may lose: give metric, or say min_decibels instead")
        if self.max_layers is not None and self.max_layers < 1:
            raise InputError(f"max_layers must be 1 or more, or None for any number, got {self.max_layers}")
        if self.bits is not None and not 3 <= self.bits <= 8:
            raise InputError(f"bits must be 3 to 8, or None for float, got {self.bits}")
        if self.samples < 1:
            raise InputError(f"samples must be 1 or more, got {self.samples}")
        if self.latency:
            latency.require_openvino()

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        before = fx.GraphModule(graph_module, copy_graph(graph_module.graph)) if self.latency else graph_module
        restored = self._restore_until_met(graph_module, context)
        if self.latency and restored:
            context.progress("measuring latency", 0, None)
            context.notes += _prices(before, graph_module, [done.node for done in restored], context)
        return restored

    def _restore_until_met(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        loss = _Loss(self, graph_module, context)
        before = loss.measure()
        if before.met:
            context.notes.append(f"{before}: nothing to restore")
            return []
        restored: list[Replacement] = []
        ranked = self._ranked(graph_module, context, loss)
        for done, place in enumerate(ranked[: self.max_layers]):
            context.progress("restoring precision", done, self.max_layers)
            names = self._restore(graph_module, place, context)
            if not names:
                continue
            after = loss.measure()
            given = "left in float" if self.bits is None else f"given {self.bits} bits"
            alone = f"{_readable(place.decibels)} by itself"
            context.notes.append(f"{', '.join(names)} ({alone}) {given}: {before} → {after}")
            restored += [Replacement("", name, name, source_line(place.node)) for name in names]
            before = after
            if after.met:
                return restored
        context.notes.append(f"what was asked for is not reached: {before}; {self._remedy(ranked)}")
        return restored

    def _ranked(self, graph_module: fx.GraphModule, context: Context, loss: _Loss) -> list[Place]:
        """The layers that can be restored, by their own noise, worst first."""
        layers = quantized_layers(graph_module, context.target)
        if self.bits is not None:
            calls = quantizer_calls(graph_module)
            layers = [_weights_alone(one) for one in layers if any(calls[call].spec.bits < self.bits for call in one.weights)]
        places = [Place(layer.node, layer) for layer in layers]
        measure_noise(graph_module, places, loss.batches, context.progress, self.samples)
        return sorted(places, key=lambda place: place.decibels)

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

    def _remedy(self, ranked: list[Place]) -> str:
        if self.max_layers is not None and self.max_layers < len(ranked):
            return f"raise max_layers={self.max_layers}"
        return "no layer is left to restore" if self.bits is None else "leave bits out, so that layers return to float"


def _prices(before: fx.GraphModule, after: fx.GraphModule, names: list[str], context: Context) -> list[str]:
    """What restoring `names` costs in milliseconds, layer by layer and in all."""
    variants = {"before": before, "after": after}
    kernels = latency.measure_kernels(variants, context.example, context.lower)
    seconds = latency.measure_latencies(variants, context.example, context.lower)
    told = []
    for name in names:
        nodes = {which: next(n for n in module.graph.nodes if n.name == name) for which, module in variants.items()}
        old, new = (latency.seconds_of(kernels[which], nodes[which], context.target) * 1e3 for which in variants)
        told.append(f"{name}: {old:.3f} → {new:.3f} ms" if old or new else f"{name}: in the kernel of another layer")
    old, new = (float(np.median(seconds[which])) * 1e3 for which in variants)
    return [*told, f"the whole file: {old:.2f} → {new:.2f} ms"]


def _weights_alone(layer: Layer) -> Layer:
    """`layer` with the quantizers of its weights only."""
    return replace(layer, activations=(), cone=tuple(met for met in layer.cone if met not in layer.activations))


@dataclass(frozen=True)
class _Measured:
    """How good the model is as it is now."""

    decibels: float | None
    metric: float | None
    met: bool

    def __str__(self) -> str:
        told = [] if self.decibels is None else [_readable(self.decibels)]
        return ", ".join(told + ([] if self.metric is None else [f"metric {self.metric:g}"]))


def _readable(decibels: float) -> str:
    return readable_decibels(decibels) + (" dB" if math.isfinite(decibels) else "")


class _Loss:
    """Measures a graph module, as it changes, against the model before it was quantized."""

    def __init__(self, wanted: RestorePrecision, graph_module: fx.GraphModule, context: Context):
        self.wanted, self.graph_module = wanted, graph_module
        if context.reference is None:
            raise PlanError("RestorePrecision compares with the model before it was quantized, and nobody kept that")
        # Read once: a loader may shuffle, and the same samples must be compared.
        self.batches = list(in_small_batches(graph_module.graph, samples_of(context, wanted.samples), CHUNK))
        self.outputs: list[list[Tensor]] = []
        if wanted.min_decibels is not None:
            self.outputs = [_run(context.reference, leaves) for leaves, _ in self.batches]
        if wanted.metric is not None:
            self.least = _quality(wanted.metric, context.reference) - wanted.tolerance

    def measure(self) -> _Measured:
        """The present loss, and whether it is tolerable."""
        self.graph_module.recompile()
        decibels = metric = None
        met = True
        if self.wanted.min_decibels is not None:
            sqnr = RunningSqnr()
            for expected, (leaves, _) in zip(self.outputs, self.batches):
                sqnr.update(expected, _run(self.graph_module, leaves))
            decibels = sqnr.decibels
            met = decibels >= self.wanted.min_decibels
        if self.wanted.metric is not None:
            metric = _quality(self.wanted.metric, self.graph_module)
            met = met and metric >= self.least
        return _Measured(decibels, metric, met)


@torch.inference_mode()
def _run(graph_module: fx.GraphModule, leaves: list[Tensor]) -> list[Tensor]:
    """The floating-point outputs for flattened inputs."""
    return float_outputs(fx.Interpreter(graph_module).run(*leaves, enable_io_processing=False))


@torch.no_grad()
def _quality(metric: Callable[[nn.Module], float], model: nn.Module) -> float:
    """What `metric` says of `model`, as a number."""
    value = quality(metric, model)
    if math.isnan(value):
        raise InputError("metric returned NaN; let it return a number, larger for a better model")
    return value
