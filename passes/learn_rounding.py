"""Learn the integers of weights, layer by layer, on what the layers read in the quantized model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, fx

from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.quantization.acceptance import Change, judged
from fxcompress.quantization.matrix_layers import MatrixLayer, in_step, matrix_layers
from fxcompress.quantization.patches import input_patches, weight_rows
from fxcompress.quantization.relaxation import learn
from fxcompress.quantization.rounding import damped, descend, error
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class LearnRounding(Pass):
    """Round each layer's weight so that it also makes up for the errors of the layers and activations before it.

    Layer by layer, from the inputs on, with activations quantized and all weights before it settled: a layer's outputs on
    what it reads there are to be the float model's. The integers start from the present ones, or from those that
    coordinate descent finds for this objective, whichever are better, and are then learned: Nagel et al., "Up or Down?
    Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, sections 3.2 to 3.4, with the asymmetric
    reconstruction of equation 25, but for its activation function. An output channel keeps its present integers where the
    learned ones do not bring it nearer to the float model's, on the samples, and a layer where its new ones do not bring the
    outputs nearer, on other samples (`fxcompress.quantization.acceptance`). Nothing is random.

    List it after `Calibrate`. It pays for weights of few bits.

    Args:
        samples: of the calibration data, at most. Both models advance together on all of them, so that a value takes
            ``2 * samples`` times its memory until it is read for the last time.
        judging: samples that come after these, at most, to judge the layers on.
        patches: output values of each sample that a layer is fitted to, at most.
        damping: how strongly a weight is held to the float one: as a share of the mean power of what the layer reads, for
            a layer that is shown as many output values as each is computed from; in proportion to their ratio for others.
        iterations: of the gradient descent; 0 for coordinate descent alone.
        learning_rate: of Adam.
        regularization: how strongly a weight is urged to settle for an integer.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
    """

    samples: Annotated[int, Ge(1)] = 64
    judging: Annotated[int, Ge(1)] = 16
    patches: Annotated[int, Ge(1)] = 64
    damping: Annotated[float, Gt(0)] = 3.0
    iterations: Annotated[int, Ge(0)] = 100
    learning_rate: Annotated[float, Gt(0)] = 0.1
    regularization: Annotated[float, Ge(0)] = 3.0

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        batches, others = divided(graph_module.graph, context, self.samples, self.judging)
        layers = matrix_layers(graph_module, context.reference, context.target, self.name, context.notes)
        changes: list[Change] = []
        seen = defaultdict[fx.Node, list[tuple[Tensor, Tensor]]](list)
        for layer, call, runs in in_step(layers, context.reference, graph_module, batches):
            context.progress("learning to round", len(changes), len(layers))
            for before, after in runs:
                read = before.value(call.twin.args[0]), after.value(call.node.args[0])
                wanted, present = (input_patches(call.node, x, layer.weight.shape, self.patches) for x in read)
                seen[layer.node].append((wanted, present))
            if call is layer.calls[-1]:
                with Change.recorded(*layer.nodes) as change:
                    self._round(layer, *(torch.cat(patches, 1) for patches in zip(*seen.pop(layer.node))))
                changes.append(change)
        kept = judged(changes, lambda: graph_module, context.reference, others, notes=context.notes)
        return [Replacement.at(change.node) for change in kept]

    def _round(self, layer: MatrixLayer, float_patches: Tensor, patches: Tensor) -> None:
        """Settle the weight of `layer`, given what it reads in both models: [groups, patches, columns]."""
        weight, present = weight_rows(layer.node, layer.weight), layer.integers
        (scale, zero_point), levels = layer.grid, layer.quantizer.levels
        _, count, columns = patches.shape
        moment = damped(patches.mT @ patches / count, self.damping * columns / count)
        free = torch.ones_like(weight, dtype=torch.bool) if layer.free is None else layer.free
        target = weight + _shift(weight, float_patches, patches, moment) * free
        found = descend(target, moment, scale, zero_point, levels, free=free)
        errors = [error((integers - zero_point) * scale - target, moment) for integers in (present, found)]
        start = torch.where((errors[1] < errors[0])[..., None], found, present)
        options = self.iterations, self.learning_rate, self.regularization
        learned = torch.where(free, learn(start, target, moment, scale, zero_point, levels, *options), start)
        wanted = float_patches @ weight.mT
        before, after = ((patches @ ((q - zero_point) * scale).mT - wanted).square().sum(1) for q in (present, learned))
        layer.set_integers(torch.where((after < before)[..., None], learned, present))


def _shift(weight: Tensor, float_patches: Tensor, patches: Tensor, moment: Tensor) -> Tensor:
    """What is to be added to `weight`, so that the outputs on `patches` are nearest to those on `float_patches`.

    The least squares solution with the damping of `moment` as penalty, in double precision.
    """
    cross = patches.mT @ (float_patches - patches) / patches.shape[1]
    return torch.linalg.solve(moment.double(), cross.double() @ weight.mT.double()).mT.float()
