"""Repeat the channels between two linear layers that stand out most, and divide their weights among the copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, fx

from fxcompress.channels.removal import propagate
from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.foreseen import kept_ahead
from fxcompress.driver.interface import Context, Pass
from fxcompress.execution.observe import check_finite, observe
from fxcompress.execution.precision import Precision
from fxcompress.ir.edit import attribute, insert_constant
from fxcompress.ir.sharing import changed_together, others_read
from fxcompress.ir.signature import argument
from fxcompress.quantization.acceptance import Change
from fxcompress.quantization.splitting import InnerValue, copies_of, in_chains, inner_values, places, prominence, spread
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class SplitChannels(Pass):
    """Repeat the channels between two linear layers that stand out most, and divide their weights among the copies.

    In a transformer's feed-forward block a few channels are several times wider than the rest, and a few weights that read
    them tens of times larger than all others of their row, which share a scale with them: in MiniLM-L6, one row of each
    block makes two thirds of the noise. A copy costs a row of the layer before and a column of the layer behind. The idea is
    that of Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting", arXiv
    1901.09504, section 3.2; here a row uses no more copies than it needs (see `spread`). `SmoothActivations`, listed behind
    it, narrows the activations at the expense of the weights.

    Split is what one linear layer computes, perhaps through activation functions, and nothing but linear layers reads; the
    weights are constants. Where `Quantize` or the like comes later in the list, layers stay as they were for which the
    outputs are no nearer to the float model's then, on other samples, with activations in float: a copy rounds as its channel
    does.

    Args:
        channels: so many are added; 16 keeps rows aligned for vector units.
        gain: where no channel would stand out by this factor less, none are added. A channel stands out by its width times
            its largest weight, as a multiple of a typical one in the same row.
        samples: of the calibration data, at most, to find the channels' widths on; None for all, which leaves none to judge on.
        judging: samples that come after these, at most, to judge the layers on.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
        CalibrationError: an activation is NaN or infinite.
    """

    channels: Annotated[int, Ge(1)] = 16
    gain: Annotated[float, Ge(1)] = 1.25
    samples: Annotated[int, Ge(1)] | None = 64
    judging: Annotated[int, Ge(1)] = 16
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.ROUNDING
    reads_data: ClassVar[bool] = True

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        found = {inner.value: inner for inner in inner_values(graph_module.graph)}
        if not found:
            return []
        choosing, others = self._divided(graph_module.graph, context)
        count = sum(map(Batch.of(graph_module.graph).count, choosing)) or None
        widths: dict[fx.Node, Tensor] = {}
        for value, x in observe(graph_module, context, found, samples=count, precision=self.precision):
            width = x.float().abs().flatten(0, -2).amax(0)
            widths[value] = torch.maximum(widths.get(value, width), width)
        seen = {inner: widths[value] for value, inner in found.items() if value in widths}
        groups, left = changed_together(graph_module, {inner: inner.altered for inner in seen})
        context.notes += others_read([one.value.name for one in left])
        copies: dict[InnerValue, Tensor] = {}
        for group in groups:
            copies |= self._copies(graph_module, {inner: seen[inner] for inner in group})
        split: list[_Split] = []
        for group in in_chains(copies, groups):
            with Change.recorded(*dict.fromkeys(layer for inner in group for layer in (inner.before, *inner.behind))) as change:
                for inner in group:
                    self._split(graph_module, inner, copies[inner])
            split.append(_Split(group, change))
        resized = {node for inner in copies for node in (*inner.path, *inner.constants)}

        def present() -> fx.GraphModule:
            propagate(graph_module.graph, resized)
            return graph_module

        kept = kept_ahead(split, graph_module, context, choosing, others, present=present, activations=False)
        present()
        return [Replacement.at(inner.value) for one in kept for inner in one.group]

    def _divided(self, graph: fx.Graph, context: Context) -> tuple[list[Leaves], list[Leaves]]:
        """The samples that choose, none of them where all do, and those that judge."""
        return ([], []) if self.samples is None else divided(graph, context, self.samples, self.judging)

    def _copies(self, graph_module: fx.GraphModule, widths: dict[InnerValue, Tensor]) -> dict[InnerValue, Tensor]:
        """How many places each channel of the values gets, the same in all of them; none where it is not worth it."""
        burdens = []
        for inner, width in widths.items():
            check_finite(inner.value, width)
            burdens += [width * prominence(_tensor(graph_module, layer.args[1])) for layer in inner.behind]
        burden = torch.stack(burdens).amax(0)
        copies = copies_of(burden, self.channels)
        worth_it = (burden / copies).max() * self.gain <= burden.max()
        return dict.fromkeys(widths, copies) if worth_it else {}

    def _split(self, graph_module: fx.GraphModule, inner: InnerValue, copies: Tensor) -> None:
        """Give channel c ``copies[c]`` places, in the layer before and in those behind."""
        channels, _ = places(copies)
        for name in ("weight", "bias"):
            constant = argument(inner.before, name)
            if constant is not None:
                tensor = _tensor(graph_module, constant)
                self._replace(graph_module, inner.before, constant, tensor[channels.to(tensor.device)])
        for layer in inner.behind:
            held = layer.args[1]
            self._replace(graph_module, layer, held, spread(_tensor(graph_module, held), copies))

    def _replace(self, graph_module: fx.GraphModule, layer: fx.Node, held: fx.Node, tensor: Tensor) -> None:
        name = f"{held.target}_split"
        made = insert_constant(graph_module, name, tensor, before=layer, created_by=self.name, replaces=held)
        layer.replace_input_with(held, made)


@dataclass
class _Split:
    """The values of `group`, with the channels that are repeated, and what that changes."""

    group: list[InnerValue]
    change: Change

    @property
    def node(self) -> fx.Node:
        return self.group[0].value

    def make(self) -> None:
        self.change.make()

    def undo(self) -> None:
        self.change.undo()


def _tensor(graph_module: fx.GraphModule, constant: fx.Node) -> Tensor:
    return attribute(graph_module, str(constant.target)).detach()
