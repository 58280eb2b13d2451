"""A training loop's hold on quantizers: when they start, and what there is of them."""

from __future__ import annotations

from collections import Counter

from rich.table import Table
from torch import fx

from fxcompress.masks.mask import masked
from fxcompress.options import check_arguments
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantization.weights import fit
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.report.tables import titled
from fxcompress.report.units import readable_bytes
from fxcompress.training.controller import Statistics
from fxcompress.training.staged import StagedController


class QuantizationController(StagedController):
    """The quantizers of one model.

    Attributes:
        weights, activations: the quantizers of constants and of computed values, by name.
    """

    weights: dict[str, Quantizer]  # type: ignore[assignment]
    activations: dict[str, Quantizer]  # type: ignore[assignment]

    def __init__(self, graph_module: fx.GraphModule, *, weights_start_epoch: int = 0, activations_start_epoch: int = 0):
        self.graph_module = graph_module
        calls = quantizer_calls(graph_module)
        weights = {str(call.target): found for call, found in calls.items() if serves_weight(call)}
        activations = {str(call.target): found for call, found in calls.items() if not serves_weight(call)}
        super().__init__(weights, activations, weights_start_epoch, activations_start_epoch)

    @check_arguments("weights", "activations")
    def switch(self, *, weights: bool | None = None, activations: bool | None = None) -> None:
        """As `StagedController.switch`; quantizers of weights that are turned on take their ranges from the weights."""
        if weights:
            self._fit_weights()
        super().switch(weights=weights, activations=activations)

    def statistics(self) -> Statistics:
        """A row for each kind of grid: how many quantizers have it, how many of them are on, and the bytes of its weights.

        Where weights, or activations, have different bits, a row for each quantizer too.
        """
        tables = [self._by_grid()]
        for kind, quantizers in (("weight", self.weights), ("activation", self.activations)):
            if len({_bits(quantizer) for quantizer in quantizers.values()}) > 1:
                tables.append(titled(f"Bits by {kind}", kind, "bits"))
                for name, quantizer in quantizers.items():
                    tables[-1].add_row(name.removesuffix("_quantizer"), _bits(quantizer))
        return Statistics(tuple(tables))

    def _by_grid(self) -> Table:
        headings = "of", "bits", "mode", "scales", "quantizers", "on", "bytes"
        table = titled("Quantizers", *headings, numbers=headings[4:])
        quantizers = [("activations", one) for one in self.activations.values()]
        quantizers += [("weights", one) for one in self.weights.values()]
        kinds = Counter((kind, *_grid(quantizer)) for kind, quantizer in quantizers)
        on = Counter((kind, *_grid(quantizer)) for kind, quantizer in quantizers if quantizer.enabled)
        sizes: Counter[tuple[str, ...]] = Counter()
        for call, quantizer in quantizer_calls(self.graph_module).items():
            if serves_weight(call):
                sizes["weights", *_grid(quantizer)] += int(quantizer.bytes_per_weight * call.meta["val"].numel())
        for kind, count in sorted(kinds.items()):
            table.add_row(*kind, str(count), str(on[kind]), readable_bytes(sizes[kind]) if kind in sizes else "")
        return table

    def _fit_weights(self) -> None:
        """Set the ranges of the weights' quantizers that are off."""
        for call, quantizer in quantizer_calls(self.graph_module).items():
            if serves_weight(call) and not quantizer.enabled:
                fit(quantizer, masked(self.graph_module, call.args[0]))


def _bits(quantizer: Quantizer) -> str:
    return f"{'int' if quantizer.signed else 'uint'}{quantizer.spec.bits}"


def _grid(quantizer: Quantizer) -> tuple[str, str, str]:
    """Bits and sign, symmetric or not, and what has a scale."""
    spec = quantizer.spec
    mode = "symmetric" if spec.symmetric else "asymmetric"
    scales = "per tensor" if spec.channel_axis is None else "per channel"
    return _bits(quantizer), mode, f"groups of {spec.group_size}" if spec.group_size else scales
