"""Set the ranges of activation quantizers from data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxcompress.data.samples import chunks
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import CalibrationError, describe
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.precision import FLOAT32, Precision, channels_last
from fxcompress.quantization.quantized import activations_in_float, serves_weight
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import Estimator, Statistic, find_estimator
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class Calibrate(Pass):
    """Run the data through the float model and give every activation quantizer the range it sees.

    Args:
        estimator: chooses the ranges: a name in `fxcompress.quantization.ranges.ESTIMATORS`, or an `Estimator`. A quantizer
            with an estimator of its own (see `Quantize`) keeps to that.
        samples: at most so many samples; None for all of the data.
        precision: of the forward passes. ``"auto"`` takes bfloat16 for convolutions and matrix products where the CPU
            computes them natively, twice as fast: its rounding, at most 0.2% of a value, is below half a step of an
            8-bit range. ``"float32"`` and ``"bfloat16"`` force one.
        chunk: samples a forward pass: batches of fewer are joined, where the model's batch size is free.

    Raises:
        InputError: there is no data, a batch does not fit the model, or no estimator has this name.
        CalibrationError: a value is NaN or infinite; names the first such place in the graph.
    """

    estimator: str | Estimator = "min_max"
    samples: int | None = 300
    precision: Precision = "auto"
    chunk: int = 10

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})
    gives: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        estimator = find_estimator(self.estimator)
        observer = _Observer(graph_module, estimator)
        with torch.inference_mode():
            seen = 0
            for leaves, count in chunks(graph_module.graph, context, self.samples, self.chunk):
                if not seen:
                    with activations_in_float(graph_module):
                        observer.arithmetic = choose_arithmetic(self.precision, graph_module, leaves)
                observer.observe(leaves)
                seen += count
                context.progress("calibrating", seen, self.samples)
        context.notes.append(f"{seen} samples, {observer.arithmetic} forward")
        return observer.set_ranges()


class _Observer(fx.Interpreter):
    """Runs the graph in float, and keeps a statistic of each activation quantizer's input.

    Weight quantizers have their range already and are passed by: ranges are those of the float model.
    """

    def __init__(self, graph_module: fx.GraphModule, estimator: Estimator):
        super().__init__(graph_module)
        self.statistics: dict[fx.Node, Statistic] = {}
        self.estimator, self.arithmetic = estimator, FLOAT32
        self.node: fx.Node | None = None

    def observe(self, leaves: Iterable[Any]) -> None:
        self.run(*channels_last(leaves), enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        assert self.node is not None
        return self.arithmetic.call(self.node, target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        if not isinstance(module, Quantizer):
            return module(*args, **kwargs)
        (x,) = args
        if not serves_weight(self.node):
            if self.node not in self.statistics:
                channels = module.scale.numel() if module.scale.dim() else None
                self.statistics[self.node] = (module.estimator or self.estimator).start(module.spec, channels)
            self.statistics[self.node].update(x)
        return x

    def set_ranges(self) -> list[Replacement]:
        """Give each quantizer its range; one that serves several nodes gets the union of theirs."""
        ranges: dict[str, tuple[Tensor, Tensor]] = {}
        for node, statistic in self.statistics.items():
            low, high = statistic.result()
            if not (low.isfinite().all() and high.isfinite().all()):
                raise CalibrationError(
                    f"calibration met {float(low.min()):g} to {float(high.max()):g} "
                    f"in the value {describe(node.all_input_nodes[0])}; "
                    "look there for a division by zero or an overflow, or for NaN in the data"
                )
            known = ranges.get(str(node.target), (low, high))
            ranges[str(node.target)] = torch.minimum(low, known[0]), torch.maximum(high, known[1])
        for target, (low, high) in ranges.items():
            self.module.get_submodule(target).set_range(low, high)
        return [Replacement.at(node) for node in self.statistics]
