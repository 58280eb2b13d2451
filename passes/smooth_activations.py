"""Move the spread between the channels of an activation into the weights of the linear layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, fx

from fxcompress.data.batch import Batch
from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.foreseen import kept_ahead
from fxcompress.driver.interface import Context, Pass
from fxcompress.execution.observe import check_finite, observe
from fxcompress.execution.precision import Precision
from fxcompress.execution.relevance import relevant_inputs
from fxcompress.ir.sharing import changed_together, others_read
from fxcompress.quantization.acceptance import Change
from fxcompress.quantization.smoothed_layers import ConstantLinear, linear_readers, read_smoothed, smooth
from fxcompress.quantization.smoothing import ChannelBounds, best_smoothing
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Centre the channels of what linear layers read and divide the widest by factors, and make up for it in their weights.

    In transformers a few channels are tens of times wider than the rest, most of them to one side, and one scale for all of
    them leaves the rest few levels. Wei et al., "Outlier Suppression+", arXiv 2304.09145, equation 5: from channel j,
    ``(max X_j + min X_j) / 2`` is subtracted, which the biases take up; the factor is then ``max(1, max|X_j| / t)``, and the
    threshold t the one for which the layers' outputs, with inputs and weights quantized, are nearest to the float
    model's, on tokens that the model's outputs depend on (`fxcompress.relevance`). Nothing is subtracted where that is
    nearer. (Dividing all channels by a power of their width, as in Xiao et al., "SmoothQuant", arXiv 2211.10438, costs the
    weights more.)

    Where a layer norm computes the activation for these layers alone, it takes up both, and a product with a constant the
    factors; else a multiplication and an addition do, which OpenVINO joins with the quantization after them. Only
    activations of three dimensions and more (samples, tokens, channels) are smoothed; and where `Quantize` or the like comes
    later in the list, only those for which the outputs are nearer to the float model's then, on other samples.

    Args:
        samples: of the calibration data, at most; None for all. As many as `Calibrate` is given: a value that is beyond the
            widest one seen here is widened further by its channel's factor.
        tokens: that thresholds are tried on, at most; more of them hardly move the choice. They are taken from among four times
            as many.
        token_samples: of the data that they are taken from, at most.
        judging: samples that come after these, at most, to judge the activations on; nothing else is read of them.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
        CalibrationError: an activation is NaN or infinite.
    """

    samples: Annotated[int, Ge(1)] | None = 300
    tokens: Annotated[int, Ge(1)] = 256
    token_samples: Annotated[int, Ge(1)] = 32
    judging: Annotated[int, Ge(1)] = 16
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.ROUNDING
    reads_data: ClassVar[bool] = True

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        readers = linear_readers(graph_module.graph)
        if not readers:
            return []
        choosing, others = divided(graph_module.graph, context, self.token_samples, self.judging)
        count, judging = (sum(map(Batch.of(graph_module.graph).count, batches)) for batches in (choosing, others))
        unseen, bounds = range(count, count + judging), {value: ChannelBounds() for value in readers}
        for value, x in observe(graph_module, context, readers, samples=self.samples, without=unseen, precision=self.precision):
            bounds[value].update(x)
        tokens = self._tokens(graph_module, context, count, [linear for linears in readers.values() for linear in linears])
        seen = {value: linears for value, linears in readers.items() if all(linear in tokens for linear in linears)}
        layers = {value: [ConstantLinear(graph_module, linear) for linear in linears] for value, linears in seen.items()}
        groups, left = changed_together(graph_module, {value: read_smoothed(value, read) for value, read in layers.items()})
        context.notes += others_read([one.name for one in left])
        changes: list[Change] = []
        for group in groups:
            for value in group:
                check_finite(value, bounds[value].high - bounds[value].low)
            together = [layer for value in group for layer in layers[value]]
            tried = [(tokens.pop(layer.node), layer.rows) for layer in together]
            chosen = best_smoothing(ChannelBounds.of_all(map(bounds.__getitem__, group)), tried, context.target)
            with Change.recorded(*group, *(one for layer in together for one in (layer.node, layer.reader))) as change:
                for value in group:
                    smooth(graph_module, value, layers[value], chosen, self.name)
            changes.append(change)
        kept = kept_ahead(changes, graph_module, context, choosing, others, in_place=True)
        return [Replacement.at(change.node) for change in kept]

    def _tokens(
        self, graph_module: fx.GraphModule, context: Context, samples: int, linears: Sequence[fx.Node]
    ) -> dict[fx.Node, Tensor]:
        """What each of `linears` reads of so many `samples`, ``[tokens, channels]``."""
        found = {linear: _Spread(self.tokens) for linear in linears}
        for linear, rows in relevant_inputs(
            graph_module,
            context,
            linears,
            samples=samples,
            enough=4 * self.tokens,
            precision=self.precision,
        ):
            found[linear].add(rows)
        return {linear: rows.taken() for linear, rows in found.items() if rows.seen}


class _Spread:
    """At most `most` of the rows that come, evenly spread among them."""

    def __init__(self, most: int):
        self.most, self.step, self.seen = most, 1, 0
        self.parts: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.parts.append(rows[-self.seen % self.step :: self.step].clone())
        self.seen += len(rows)
        while sum(map(len, self.parts)) > 2 * self.most:
            self.parts = [torch.cat(self.parts)[::2].clone()]
            self.step *= 2

    def taken(self) -> Tensor:
        rows = torch.cat(self.parts)
        return rows[torch.arange(self.most) * len(rows) // self.most] if len(rows) > self.most else rows
