"""Set the ranges of activation quantizers from data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, fx

from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.padding import Padding
from fxcompress.data.samples import divide, in_chunks, in_small_batches, packed, samples_of
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import CalibrationError, describe
from fxcompress.execution.agreement import decibels
from fxcompress.execution.gradients import Differentiable, RandomSigns, output_gradients, samples_a_pass
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.observe import values_at
from fxcompress.execution.precision import Precision
from fxcompress.execution.unsettled_norms import warn_of_unsettled_norms
from fxcompress.ir.constants import constants
from fxcompress.quantization.acceptance import OutputDifference, keep_what_helps
from fxcompress.quantization.centring import centred, is_read_padded
from fxcompress.quantization.narrowing import worth_narrowing
from fxcompress.quantization.pairs import summed_operands
from fxcompress.quantization.quantized import in_float, quantized_layers, quantizer_calls, serves_weight
from fxcompress.quantization.restoration import leave_in_float
from fxcompress.quantizers.estimator import Estimator, Range, Statistic
from fxcompress.quantizers.neighbours import widening
from fxcompress.quantizers.output_error import WeighedStatistic
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import ESTIMATORS, EstimatorName, find_estimator
from fxcompress.report.ranges import RangeChoice
from fxcompress.rewrite.rule import Replacement
from fxcompress.targets.faults import Fault
from fxcompress.targets.table import Target


@dataclass(frozen=True, kw_only=True)
class Calibrate(Pass):
    """Run the data through the float model and give every activation quantizer the range it sees.

    Args:
        estimator: chooses the ranges: a name in `fxcompress.quantizers.ranges.ESTIMATORS`, or an `Estimator`. A quantizer
            with an estimator of its own (see `Quantize`) keeps to that.
        samples: at most so many samples, those among them that judge narrower ranges; None for all of the data.
        gradient_samples: of these, at most, for what the outputs owe to each value, where the estimator asks for it: as
            ``"output_error"`` does. They take a backward pass.
        precision: of the forward passes. ``"auto"`` takes bfloat16 for convolutions and matrix products where the CPU
            computes them natively, twice as fast: its rounding, at most 0.2% of a value, is below half a step of an
            8-bit range. ``"float32"`` and ``"bfloat16"`` force one.
        chunk: samples a forward pass: batches of fewer are joined, where the model's batch size is free.

    Warns:
        TrainingWarning: most batch norms have statistics that are not those of the data, as in a network that was never run.

    Raises:
        InputError: there is no data, a batch does not fit the model, or no estimator has this name.
        CalibrationError: a value is NaN or infinite; names the first such place in the graph.
    """

    estimator: EstimatorName | Estimator = "min_max"
    samples: Annotated[int, Ge(1)] | None = 300
    gradient_samples: Annotated[int, Ge(1)] = 32
    precision: Precision = "auto"
    chunk: Annotated[int, Ge(1)] = 10

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})
    gives: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        statistics = _Statistics(graph_module, find_estimator(self.estimator), context.target)
        weighing = self._weighed if statistics.weighed else 0
        stream = samples_of(graph_module.graph, context, self.samples)
        batch, ahead = Batch.of(graph_module.graph), [next(stream)]
        while weighing and sum(map(batch.count, ahead)) < weighing + JUDGING and (more := next(stream, None)):
            ahead.append(more)
        choosing, others = divide(batch, ahead, weighing, JUDGING if weighing else 0)
        first, _ = next(in_chunks(batch, ahead, self.chunk))
        seen = 0
        with in_float(graph_module):
            warn_of_unsettled_norms(graph_module, first)
            arithmetic = choose_arithmetic(self.precision, graph_module, first)
            for leaves, count in packed(graph_module.graph, chain(others, stream), self.chunk):
                for node, x in values_at(graph_module, statistics.places, leaves, arithmetic):
                    statistics.update(node, x)
                seen += count
                context.progress("calibrating", seen, self.samples)
            signs, differentiable = RandomSigns(), Differentiable(arithmetic)
            together = samples_a_pass(graph_module.graph, first)
            for leaves, count in in_small_batches(graph_module.graph, choosing, together):
                for node, x, gradient in output_gradients(graph_module, statistics.places, leaves, signs, differentiable):
                    statistics.update(node, x, gradient)
                seen += count
                context.progress("weighing errors", seen, self.samples)
        padded = ", without padding, which no output depends on" if Padding.of(graph_module.graph) else ""
        context.notes.append(f"{seen} samples, {arithmetic} forward{padded}")
        statistics.leave_unseen(context)
        rewritten, asking, chosen = statistics.set_ranges(), statistics.weighed, {}
        if asking:
            judging = [leaves for leaves, _ in packed(graph_module.graph, divide(batch, others, JUDGING, 0)[0], JUDGING)]
            undone = _judge(graph_module, asking, judging, context)
            chosen = _chosen(graph_module, asking, undone, context)
        for name, factor in statistics.spread_operands().items():
            chosen |= {name: (chosen[name][0] * factor, chosen[name][1] * factor)} if name in chosen else {}
        if asking:
            _tell(asking, sum(map(batch.count, choosing)), chosen, context)
        return rewritten

    @property
    def _weighed(self) -> int:
        return self.gradient_samples if self.samples is None else min(self.gradient_samples, self.samples)


JUDGING = 16
"""Samples, other than those that chose, that narrower ranges are judged on."""

TRIALS = 3
"""Measurements of them, at most: of all, and of two halves."""

MARGIN = 2.0
"""Standard errors that their gain is larger than: other data than these go farther, and lose more by a narrow range."""


def _informed(asking: Mapping[fx.Node, WeighedStatistic]) -> dict[str, WeighedStatistic]:
    """Those that know what the outputs owe to their values, by the name of the quantizer."""
    return {str(node.target): statistic for node, statistic in asking.items() if statistic.informed}


@dataclass
class _Narrowing:
    """A range that cuts off values, in place of the one from the lowest to the highest."""

    name: str
    quantizer: Quantizer
    statistic: WeighedStatistic

    def make(self) -> None:
        self.quantizer.set_range(*self.statistic.result())

    def undo(self) -> None:
        self.quantizer.set_range(*self.statistic.extremes)


def _judge(
    graph_module: fx.GraphModule,
    asking: Mapping[fx.Node, WeighedStatistic],
    batches: Sequence[Leaves],
    context: Context,
) -> set[str]:
    """Undo ranges that gain too little, or do not bring the outputs on `batches` nearer to the float model's; their names."""
    assert context.reference is not None
    found = _informed(asking)
    changes = {name: _Narrowing(name, graph_module.get_submodule(name), statistic) for name, statistic in found.items()}
    worth = worth_narrowing(found) if batches else []
    for name in found.keys() - set(worth):
        changes[name].undo()
    if not batches:
        context.notes.append("no range is narrower than its values: there are too few samples to judge one on others")
        return set(found)
    if not worth:
        return set(found)
    error = partial(OutputDifference(context.reference, batches), graph_module)
    verdict = keep_what_helps([changes[name] for name in worth], error, trials=TRIALS, margin=MARGIN)
    return found.keys() - {change.name for change in verdict.kept}


def _chosen(
    graph_module: fx.GraphModule, asking: Mapping[fx.Node, WeighedStatistic], undone: Collection[str], context: Context
) -> dict[str, Range]:
    """The range of each quantizer, with zero in its middle where that saves the runtime time and hardly costs anything."""
    found = _informed(asking)
    ranges = {name: one.extremes if name in undone else one.result() for name, one in found.items()}
    if Fault.MIDDLES in context.target.faults:
        padded = {str(node.target) for node in asking if is_read_padded(node)} & found.keys()
        for name, (low, high) in (wider := centred(found, ranges, padded)).items():
            graph_module.get_submodule(name).set_range(low, high)
        ranges |= wider
    return ranges


RIVALS = ("min_max", "percentile")
"""The estimators whose ranges are told beside those that were chosen by their cost."""


def _tell(asking: Mapping[fx.Node, WeighedStatistic], samples: int, chosen: Mapping[str, Range], context: Context) -> None:
    """Report the ranges that cost least, with what others would have cost."""
    by_quantizer = _informed(asking)
    for name, statistic in by_quantizer.items():
        ranges = {"chosen": chosen[name]} | {rival: statistic.rival(ESTIMATORS[rival]) for rival in RIVALS}
        costs = {label: decibels(1.0, statistic.cost(one) / samples) for label, one in ranges.items()}
        (low, high), seen = chosen[name], statistic.extremes
        spans = [(float(a.min()), float(b.max())) for a, b in (seen, (low.clamp(max=0.0), high.clamp(min=0.0)))]
        context.ranges.append(RangeChoice(name, spans[0], spans[1], costs))
    if blind := {str(node.target) for node in asking} - by_quantizer.keys():
        context.notes.append(f"{len(blind)} ranges are from the lowest to the highest value: no output has a gradient there")
    if context.ranges:
        narrowed = sum(choice.is_narrowed for choice in context.ranges)
        context.notes.append(
            f"{narrowed} of {len(context.ranges)} ranges are narrower than their values, as weighed on {samples} samples; "
            "report.ranges has the choices"
        )


class _Statistics:
    """What each activation quantizer reads. Those of weights have their range already and are passed by."""

    def __init__(self, graph_module: fx.GraphModule, estimator: Estimator, target: Target):
        self.graph_module = graph_module
        self.by_node: dict[fx.Node, Statistic] = {}
        self.met: set[fx.Node] = set()  # those that some value came to
        self.operands = summed_operands(graph_module, target)
        self.largest = dict.fromkeys(self.operands, torch.zeros(()))  # value in each, without its sign
        shared: dict[Quantizer, WeighedStatistic] = {}  # costs add up: one for all places of a quantizer
        for node, quantizer in quantizer_calls(graph_module).items():
            if serves_weight(node):
                continue
            channels = quantizer.scale.numel() if quantizer.scale.dim() else None
            self.by_node[node] = shared.get(quantizer) or (quantizer.estimator or estimator).start(quantizer.spec, channels)
            if isinstance(started := self.by_node[node], WeighedStatistic):
                shared[quantizer] = started

    @property
    def places(self) -> Collection[fx.Node]:
        """The nodes that it is to be given the values of."""
        return self.by_node.keys() | self.operands.keys()

    @property
    def weighed(self) -> dict[fx.Node, WeighedStatistic]:
        """Those that ask for gradients; what is computed from constants alone is known, and has none."""
        fixed = constants(self.graph_module.graph)
        return {
            node: found for node, found in self.by_node.items() if isinstance(found, WeighedStatistic) and node not in fixed
        }

    def update(self, node: fx.Node, x: Tensor, gradient: Tensor | None = None) -> None:
        if node in self.operands and x.numel():
            self.largest[node] = torch.maximum(self.largest[node], x.abs().amax())
        if node not in self.by_node:
            return
        statistic = self.by_node[node]
        self.met.add(node)
        statistic.update(x)
        if gradient is not None and isinstance(statistic, WeighedStatistic):
            statistic.weigh(x, gradient)

    def leave_unseen(self, context: Context) -> None:
        """Leave those layers in float to which the data brings no value, as to an expert that gets no token of it."""
        unseen = self.by_node.keys() - self.met
        if not unseen:
            return
        layers = [one for one in quantized_layers(self.graph_module, context.target) if not unseen.isdisjoint(one.activations)]
        names = [one.node.name for one in layers]
        leave_in_float(self.graph_module, [one.node for one in layers], context.target, context.reference)
        left = self.met.intersection(self.graph_module.graph.nodes)
        self.by_node = {node: statistic for node, statistic in self.by_node.items() if node in left}
        context.notes.append(f"no value of the data came to what is left in float, {len(names)} in all: {', '.join(names[:5])}")

    def set_ranges(self) -> list[Replacement]:
        """Give each quantizer its range; one that serves several nodes gets the union of theirs."""
        ranges: dict[str, tuple[Tensor, Tensor]] = {}
        for node, statistic in self.by_node.items():
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
            self.graph_module.get_submodule(target).set_range(low, high)
        return [Replacement.at(node) for node in self.by_node]

    def spread_operands(self) -> dict[str, Tensor]:
        """Make the steps of operands wide enough for sums of any two values, where these are held to it.

        Returns:
            How many times as wide they became, by the name of the quantizer.
        """
        names = {one: str(node.target) for node, one in quantizer_calls(self.graph_module).items()}
        factors: dict[str, Tensor] = {}
        for node, quantizers in self.operands.items():
            for quantizer in quantizers:
                if quantizer.spec.bits == 8:
                    factor = widening(2 * self.largest[node], quantizer.scale)
                    quantizer.widen(factor)
                    name = names[quantizer]
                    factors[name] = factors[name] * factor if name in factors else factor
        return factors
