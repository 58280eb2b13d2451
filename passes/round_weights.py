"""Choose the integers of weights by what they do to the layers' outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import fx

from fxcompress.data.batch import Batch
from fxcompress.data.samples import divided, joined
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.execution.precision import Precision
from fxcompress.execution.relevance import chosen_rows, reads_tokens, relevant_inputs, relevant_rows
from fxcompress.quantization.acceptance import TRIALS, Change, judged
from fxcompress.quantization.matrix_layers import MatrixLayer, float_inputs, in_step, matrix_layers
from fxcompress.quantization.moments import Moments
from fxcompress.quantization.patches import column_count, input_patches, weight_rows
from fxcompress.quantization.quantized import activations_in_float
from fxcompress.quantization.rounding import damped, descend
from fxcompress.rewrite.rule import Replacement
from fxcompress.storage.aside import Replaced


@dataclass(frozen=True, kw_only=True)
class RoundWeights(Pass):
    """Round each weight so that the layer's output stays near the float model's, rather than each number to its nearest.

    One layer at a time, on what it reads in the float model or, if `sequential`, in the quantized one, the integers are
    chosen by coordinate descent from the nearest ones (`fxcompress.quantization.rounding`). The objective is that of Frantar
    et al., "Optimal Brain Compression", arXiv 2208.11580, equation 1; the descent is that of Behdin et al., "QuantEase",
    arXiv 2309.01885.

    Linear layers of transformers are fitted to the tokens that the model's outputs depend on, so not to padding
    (`fxcompress.relevance`). A text shows them few tokens and an image its convolutions many places, hence two
    numbers of samples.

    A layer that is called several times is fitted to what all its calls read.

    A layer of which the samples show fewer output values than each is computed from (see `columns`) keeps its nearest
    integers: there would be more unknowns than equations. So does one whose new integers do not bring the outputs nearer to
    the float model's on other samples, while activations are in float (`fxcompress.quantization.acceptance`).

    With `biases`, the bias of a layer that has one takes up the mean of what rounding does to its outputs. The integers then
    answer for the rest alone, which is what they would otherwise be spent on.

    Args:
        samples: of the calibration data, at most; all their values are in memory while something reads them.
        patches: output values of each sample that a layer is fitted to, at most.
        columns: leave out layers whose output values are computed from more numbers than this; None for no limit. Those
            with few of them (depthwise convolutions, the first layer) are both the quickest and the ones where it pays most.
        tokens: that each linear layer is fitted to, about; a layer that has been shown so many is shown no more.
        token_samples, token_columns: what `samples` and `columns` are, for linear layers on tokens.
        judging: samples that come after these, at most, to judge the layers on.
        damping: how far the samples are not believed: added to the diagonal of the inputs' second moment, as a share of its
            mean, for a layer that is shown as many output values as each is computed from; in proportion to their ratio for
            others.
        sweeps: of the descent over the numbers of a layer, at most.
        biases: whether biases are changed as well.
        sequential: fit linear layers on tokens, one after the other, to what the layers before them give by then, so that each
            makes up for those; the model runs once more, quantized, on all samples together.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
    """

    samples: Annotated[int, Ge(1)] = 16
    patches: Annotated[int, Ge(1)] = 64
    columns: Annotated[int, Ge(1)] | None = 512
    tokens: Annotated[int, Ge(1)] = 4096
    token_samples: Annotated[int, Ge(1)] = 128
    token_columns: Annotated[int, Ge(1)] | None = 2048
    judging: Annotated[int, Ge(1)] = 16
    damping: Annotated[float, Ge(0)] = 1.0
    sweeps: Annotated[int, Ge(1)] = 2
    biases: bool = False
    sequential: bool = False
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        layers = matrix_layers(graph_module, context.reference, context.target, self.name, context.notes)
        on_tokens = [layer for layer in layers if _reads_tokens(layer) and _within(layer, self.token_columns)]
        others = [layer for layer in layers if not _reads_tokens(layer) and _within(layer, self.columns)]
        count = max(self.samples if others else 1, self.token_samples if on_tokens else 1)
        choosing, unseen = divided(graph_module.graph, context, count, self.judging)
        limit = sum(map(Batch.of(graph_module.graph).count, choosing))
        of_tokens = partial(self._in_sequence, graph_module) if self.sequential else self._of_tokens
        moments = chain(self._of_patches(others, context, limit), of_tokens(on_tokens, context, limit))
        changes, replaced = list[Change](), Replaced()
        with activations_in_float(graph_module):
            for done, (layer, seen) in enumerate(moments):
                context.progress("rounding weights", done, len(others) + len(on_tokens))
                if seen.count >= column_count(layer.weight):
                    with Change.recorded(*layer.nodes) as change:
                        self._round(layer, seen)
                    changes.append(change)
                    if layer.made is not None:
                        replaced.add(layer.made)
            kept = judged(changes, lambda: graph_module, context.reference, unseen, notes=context.notes, trials=TRIALS)
        return [Replacement.at(change.node) for change in kept]

    def _of_patches(self, layers: Sequence[MatrixLayer], context: Context, limit: int) -> Iterator[tuple[MatrixLayer, Moments]]:
        """Each of `layers` with the moments of what some of its output values are computed from."""
        if layers:
            assert context.reference is not None
            batches = joined(context.reference.graph, context, min(self.samples, limit))
            moments = defaultdict[fx.Node, Moments](Moments)
            for layer, call, inputs in float_inputs(layers, context.reference, batches, self.precision):
                seen = moments[layer.node]
                for x in inputs:
                    seen.add(input_patches(call.node, x, layer.weight.shape, self.patches))
                if call is layer.calls[-1]:
                    yield layer, moments.pop(layer.node)

    def _of_tokens(self, layers: Sequence[MatrixLayer], context: Context, limit: int) -> Iterator[tuple[MatrixLayer, Moments]]:
        """Each of the linear `layers` with the moments of the tokens that count, in the float model."""
        if layers:
            assert context.reference is not None
            moments = _moments_by_call(layers)
            for node, rows in relevant_inputs(
                context.reference,
                context,
                moments,
                samples=min(self.token_samples, limit),
                enough=self.tokens,
                precision=self.precision,
            ):
                moments[node].add(rows[None])
            for layer in layers:
                yield layer, moments.pop(layer.twin)

    def _in_sequence(
        self, graph_module: fx.GraphModule, layers: Sequence[MatrixLayer], context: Context, limit: int
    ) -> Iterator[tuple[MatrixLayer, Moments]]:
        """Each of the linear `layers` with the moments of the tokens that count, as the layers before it now give them."""
        if layers:
            assert context.reference is not None
            samples, moments = min(self.token_samples, limit), _moments_by_call(layers)
            marked = relevant_rows(
                context.reference, context, moments, samples=samples, enough=self.tokens, precision=self.precision
            )
            pieces, marks = zip(*marked)
            for layer, call, runs in in_step(layers, context.reference, graph_module, pieces):
                for (wanted, found), counts in zip(runs, marks):
                    if call.twin in counts:
                        values = found.value(call.node.args[0]), wanted.value(call.twin.args[0])
                        moments[call.twin].add(*(chosen_rows(x, counts[call.twin]).float()[None] for x in values))
                if call is layer.calls[-1]:
                    yield layer, moments[call.twin]

    def _round(self, layer: MatrixLayer, seen: Moments) -> None:
        weight, bias, free = weight_rows(layer.node, layer.weight), layer.bias, layer.free
        centred = self.biases and bias is not None
        moment, damping = seen.moment(centred=centred), self.damping * column_count(layer.weight) / seen.count
        penalty = damping * moment.diagonal(dim1=1, dim2=2).mean(1)
        target = seen.target(weight, penalty, centred=centred)
        target = target if free is None else torch.where(free, target, weight)
        layer.set_integers(descend(target, damped(moment, damping), *layer.grid, layer.quantizer.levels, self.sweeps, free))
        if centred:
            scale, zero_point = layer.grid
            made = (layer.integers - zero_point) * scale
            shift = weight @ seen.wanted_mean()[..., None] - made @ seen.mean()[..., None]
            layer.set_bias(bias + shift.flatten())


def _moments_by_call(layers: Sequence[MatrixLayer]) -> dict[fx.Node, Moments]:
    """Empty moments of each layer, by its calls in the float model, which share them."""
    return {call.twin: moments for layer in layers for moments in [Moments()] for call in layer.calls}


def _reads_tokens(layer: MatrixLayer) -> bool:
    return all(reads_tokens(call.twin) for call in layer.calls)


def _within(layer: MatrixLayer, columns: int | None) -> bool:
    return columns is None or column_count(layer.weight) <= columns
