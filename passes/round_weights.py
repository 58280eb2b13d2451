"""Choose the integers of weights by what they do to the layers' outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.effect import Effect
from fxcompress.errors import InputError
from fxcompress.pipeline import Context, Pass
from fxcompress.precision import Precision
from fxcompress.quantization.matrix_layers import MatrixLayer, float_inputs, matrix_layers
from fxcompress.quantization.patches import column_count, input_patches, weight_rows
from fxcompress.quantization.rounding import damped, descend
from fxcompress.rewrite import Replacement
from fxcompress.samples import one_batch


@dataclass(frozen=True, kw_only=True)
class RoundWeights(Pass):
    """Round each weight so that the layer's output stays near the float model's, rather than each number to its nearest.

    One layer at a time, on what it reads in the float model, the integers are chosen by coordinate descent from the
    nearest ones (`fxcompress.quantization.rounding`). The objective is that of Frantar et al., "Optimal Brain Compression",
    arXiv 2208.11580, equation 1; the descent is that of Behdin et al., "QuantEase", arXiv 2309.01885.

    A layer of which the samples show fewer output values than each is computed from (see `columns`) keeps its nearest
    integers: there would be more unknowns than equations.

    Args:
        samples: of the calibration data, at most; all their values are in memory while something reads them.
        patches: output values of each sample that a layer is fitted to, at most.
        columns: leave out layers whose output values are computed from more numbers than this; None for no limit. Those
            with few of them (depthwise convolutions, the first layer) are both the quickest and the ones where it pays most.
        damping: added to the diagonal of the inputs' second moment, as a share of its mean: how far the samples are not
            believed.
        sweeps: of the descent over the numbers of a layer, at most.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
    """

    samples: int = 16
    patches: int = 64
    columns: int | None = 512
    damping: float = 0.01
    sweeps: int = 2
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __post_init__(self) -> None:
        for name in ("samples", "patches", "sweeps"):
            if getattr(self, name) < 1:
                raise InputError(f"RoundWeights needs {name} of 1 or more, got {getattr(self, name)!r}")
        if self.columns is not None and self.columns < 1:
            raise InputError(f"RoundWeights needs columns of 1 or more, or None for no limit, got {self.columns!r}")
        if not 0 <= self.damping < float("inf"):
            raise InputError(f"RoundWeights needs a damping of 0 or more, got {self.damping!r}")

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        layers = matrix_layers(graph_module, context.reference, context.target, self.name)
        layers = [layer for layer in layers if self.columns is None or column_count(layer.weight) <= self.columns]
        if not layers:
            return []
        inputs = one_batch(graph_module.graph, context, self.samples)
        rounded = []
        for done, (layer, x) in enumerate(float_inputs(layers, context.reference, inputs, self.precision)):
            context.progress("rounding weights", done, len(layers))
            patches = input_patches(layer.node, x, layer.weight.shape, self.patches)
            if patches.shape[1] >= patches.shape[2]:
                self._round(layer, patches)
                rounded.append(Replacement.at(layer.node))
        return rounded

    def _round(self, layer: MatrixLayer, patches: Tensor) -> None:
        moment = damped(patches.mT @ patches / patches.shape[1], self.damping)
        weight = weight_rows(layer.node, layer.weight)
        layer.set_integers(descend(weight, moment, *layer.grid, layer.quantizer.levels, self.sweeps, layer.free))
