"""Shift biases so that quantized layers put out what the float model's do, on average."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, fx

from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.quantization.acceptance import Change, judged
from fxcompress.quantization.matrix_layers import MatrixLayer, in_step, matrix_layers
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class CorrectBias(Pass):
    """Add to each bias the mean difference between what the layer puts out in the float model and in the quantized one.

    Layer by layer, from the inputs on, so that each correction sees those before it. A layer without a bias gets one.
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2,
    with the means measured on data (its appendix D).

    A layer's mean is also that of values which a range cuts off on purpose, and to make up for those can do harm: corrections
    are kept where they bring the outputs nearer to the float model's, on other samples (`fxcompress.quantization.acceptance`).

    Args:
        samples: of the calibration data. Both models advance together on all of them, so that a value takes
            ``2 * samples`` times its memory until it is read for the last time.
        judging: samples that come after these, at most, to judge the corrections on.

    Raises:
        InputError: there is no data, a batch does not fit the model, or `samples` is not positive.
    """

    samples: Annotated[int, Ge(1)] = 32
    judging: Annotated[int, Ge(1)] = 16

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        batches, others = divided(graph_module.graph, context, self.samples, self.judging)
        layers = matrix_layers(graph_module, context.reference, context.target, self.name, context.notes)
        changes: list[Change] = []
        errors = defaultdict[fx.Node, list[Tensor]](list)
        for layer, call, runs in in_step(layers, context.reference, graph_module, batches):
            context.progress("correcting biases", len(changes), len(layers))
            outputs = []
            for reference, quantized in runs:
                reference.run(call.twin)
                outputs.append(layer.run(quantized.value(call.node.args[0])))
                errors[layer.node].append(_by_channel(layer, reference.value(call.twin) - outputs[-1]))
            if call is layer.calls[-1]:
                with Change.recorded(*layer.nodes) as change:
                    shift = torch.cat(errors.pop(layer.node), 1).mean(1)
                    layer.set_bias(shift if layer.bias is None else layer.bias + shift)
                changes.append(change)
                outputs = [output + _of_channels(layer, shift, output) for output in outputs]
            for (_, quantized), output in zip(runs, outputs):
                quantized.run(call.node, output)
        kept = judged(changes, lambda: graph_module, context.reference, others, notes=context.notes)
        return [Replacement.at(change.node) for change in kept]


def _by_channel(layer: MatrixLayer, x: Tensor) -> Tensor:
    """What `layer` puts out, ``[channels, values]``."""
    return x.movedim(layer.channel_axis, 0).reshape(x.shape[layer.channel_axis], -1)


def _of_channels(layer: MatrixLayer, shift: Tensor, output: Tensor) -> Tensor:
    """`shift`, ``[channels]``, as it is added to what `layer` puts out."""
    axes = [1] * output.dim()
    axes[layer.channel_axis] = -1
    return shift.view(axes)
