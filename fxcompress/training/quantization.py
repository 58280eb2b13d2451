"""A training loop's hold on quantizers: when they start, and what there is of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import fx

from fxcompress.masks import constant_behind, masked
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantization.quantizer import Quantizer
from fxcompress.quantization.ranges import MinMax
from fxcompress.quantization.weights import weight_range
from fxcompress.training.controller import CompressionStage, Controller, Statistics
from fxcompress.training.scheduler import Scheduler


class QuantizationController(Controller):
    """The quantizers of one model.

    Attributes:
        weights, activations: the quantizers of constants and of computed values, by name.
    """

    def __init__(self, graph_module: fx.GraphModule, *, weights_start_epoch: int = 0, activations_start_epoch: int = 0):
        self.graph_module = graph_module
        calls = quantizer_calls(graph_module)
        self.weights = {str(call.target): found for call, found in calls.items() if serves_weight(call)}
        self.activations = {str(call.target): found for call, found in calls.items() if not serves_weight(call)}
        super().__init__(StagedScheduler(self, weights_start_epoch, activations_start_epoch))

    def switch(self, *, weights: bool | None = None, activations: bool | None = None) -> None:
        """Turn the quantizers of weights, of activations, or of both on or off; None leaves them as they are.

        A quantizer that is off returns its input unchanged. When those of weights are turned on, their ranges are set from
        the weights as they are then.
        """
        if weights:
            self._fit_weights()
        for wanted, quantizers in ((weights, self.weights), (activations, self.activations)):
            for quantizer in quantizers.values() if wanted is not None else ():
                quantizer.enabled = bool(wanted)

    def statistics(self) -> Statistics:
        """A row for each kind of grid: how many quantizers have it, and how many of them are on."""
        table = Table(title="Quantizers", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("of", "bits", "mode", "scales"):
            table.add_column(heading)
        for heading in ("quantizers", "on"):
            table.add_column(heading, justify="right")
        kinds = Counter((kind, *_grid(quantizer)) for kind, quantizer in self._all())
        on = Counter((kind, *_grid(quantizer)) for kind, quantizer in self._all() if quantizer.enabled)
        for kind, count in sorted(kinds.items()):
            table.add_row(*kind, str(count), str(on[kind]))
        return Statistics((table,))

    def compression_stage(self) -> CompressionStage:
        """Uncompressed while no quantizer is on, fully compressed when all are."""
        on = {quantizer.enabled for _, quantizer in self._all()}
        if on == {True, False}:
            return CompressionStage.PARTIALLY_COMPRESSED
        return CompressionStage.FULLY_COMPRESSED if True in on else CompressionStage.UNCOMPRESSED

    def _all(self) -> Iterator[tuple[str, Quantizer]]:
        yield from (("activations", quantizer) for quantizer in self.activations.values())
        yield from (("weights", quantizer) for quantizer in self.weights.values())

    def _fit_weights(self) -> None:
        """Set the ranges of the weights' quantizers that are off."""
        for call, quantizer in quantizer_calls(self.graph_module).items():
            if not quantizer.enabled and constant_behind(self.graph_module, call.args[0]) is not None:
                weight = masked(self.graph_module, call.args[0])
                quantizer.set_range(*weight_range(weight, quantizer.spec, quantizer.estimator or MinMax()))


class StagedScheduler(Scheduler):
    """Turns the quantizers of weights and of activations on when their epochs come."""

    def __init__(self, controller: QuantizationController, weights_start_epoch: int, activations_start_epoch: int):
        super().__init__()
        self.controller = controller
        self.starts = {"weights": weights_start_epoch, "activations": activations_start_epoch}

    def epoch_step(self, epoch: int | None = None) -> None:
        before = self.current_epoch
        super().epoch_step(epoch)
        for kind, start in self.starts.items():
            if (before >= start) != (self.current_epoch >= start) and start > 0:
                self.controller.switch(**{kind: self.current_epoch >= start})


def _grid(quantizer: Quantizer) -> tuple[str, str, str]:
    """Bits and sign, symmetric or not, and what has a scale."""
    spec = quantizer.spec
    mode = "symmetric" if spec.symmetric else "asymmetric"
    scales = "per tensor" if spec.channel_axis is None else "per channel"
    return (
        f"{'int' if quantizer.signed else 'uint'}{spec.bits}",
        mode,
        f"groups of {spec.group_size}" if spec.group_size else scales,
    )
