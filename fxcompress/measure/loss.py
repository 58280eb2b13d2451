"""What compression has cost a model so far, and whether that is tolerable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxcompress.errors import InputError
from fxcompress.execution.agreement import RunningSqnr
from fxcompress.quantization.noise import float_outputs
from fxcompress.report.units import readable_decibels
from fxcompress.training.quality import quality


@dataclass(frozen=True)
class Tolerance:
    """What a model may lose.

    Attributes:
        min_decibels: SQNR of the outputs that must be reached.
        metric: the quality of a model, larger is better.
        tolerance: how far the metric may stay below that of the reference, in its own unit.
    """

    min_decibels: float | None = None
    metric: Callable[[nn.Module], float] | None = None
    tolerance: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether anything is said."""
        return self.min_decibels is not None or self.metric is not None


@dataclass(frozen=True)
class Measured:
    """How good the model is as it is now."""

    decibels: float | None
    metric: float | None
    met: bool

    def __str__(self) -> str:
        told = [] if self.decibels is None else [with_unit(self.decibels)]
        return ", ".join(told + ([] if self.metric is None else [f"metric {self.metric:g}"]))


def with_unit(decibels: float) -> str:
    """``12.3 dB``, or ``same bits``."""
    return readable_decibels(decibels) + (" dB" if math.isfinite(decibels) else "")


class Loss:
    """Measures a graph module, as it changes, against `reference` on `batches` of flattened inputs.

    Where nothing else is said, what is measured is the SQNR of the outputs, and nothing is tolerable.

    Raises:
        InputError: the metric is not a number.
    """

    def __init__(
        self, tolerance: Tolerance, graph_module: fx.GraphModule, reference: fx.GraphModule, batches: Sequence[list[Tensor]]
    ):
        self.tolerance, self.graph_module, self.batches = tolerance, graph_module, batches
        self.in_decibels = tolerance.min_decibels is not None or tolerance.metric is None
        self.outputs = [_run(reference, leaves) for leaves in batches] if self.in_decibels else []
        if tolerance.metric is not None:
            self.least = _quality(tolerance.metric, reference) - tolerance.tolerance

    def measure(self) -> Measured:
        """The present loss, and whether it is tolerable."""
        self.graph_module.recompile()
        decibels = metric = None
        met, wanted = self.tolerance.is_known, self.tolerance
        if self.in_decibels:
            sqnr = RunningSqnr()
            for expected, leaves in zip(self.outputs, self.batches):
                sqnr.update(expected, _run(self.graph_module, leaves))
            decibels = sqnr.decibels
            met = met and (wanted.min_decibels is None or decibels >= wanted.min_decibels)
        if wanted.metric is not None:
            metric = _quality(wanted.metric, self.graph_module)
            met = met and metric >= self.least
        return Measured(decibels, metric, met)


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
