"""Insert quantizers where the target computes in integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from fxcompress.builder import add_attribute, attribute
from fxcompress.dialect import copy_graph
from fxcompress.effect import Effect
from fxcompress.errors import CalibrationError, describe, source_line
from fxcompress.pipeline import Context, Pass
from fxcompress.quantization.placement import ActivationSite, WeightSite, fused_chain, place
from fxcompress.quantization.quantizer import Quantizer
from fxcompress.quantization.spec import QuantizationSpec
from fxcompress.rewrite import Replacement
from fxcompress.scopes import select


@dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    """Quantize the weights, and put quantizers, still without a range, on the activations.

    Placement follows the target's table (`fxcompress.targets`). Weights are rounded at once; activations pass through
    unchanged until `Calibrate` sets their ranges.

    Args:
        weights: the weights' grid; None for the target's. Its channel axis is set operation by operation.
        activations: the activations' grid; None for the target's.
        per_channel: one scale for each output channel of a weight, rather than one for all.
        ignored: scopes left in float (see `fxcompress.scopes.select`).

    Raises:
        ScopeError: an entry of `ignored` matches nothing.
        CalibrationError: a weight holds NaN or infinity.
    """

    weights: QuantizationSpec | None = None
    activations: QuantizationSpec | None = None
    per_channel: bool = True
    ignored: Iterable[str] = ()

    effect: ClassVar[Effect] = Effect.LOSSY
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})
    breaks: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if context.reference is None:
            context.reference = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
        placement = place(graph_module.graph, context.target, select(graph_module.graph, self.ignored))
        shared: dict[str, str] = {}
        rewritten = [self._quantize_weight(graph_module, site, context) for site in placement.weights]
        rewritten += [self._quantize_activation(graph_module, site, context, shared) for site in placement.activations]
        self._mark_regions(graph_module, context)
        context.notes += [f"{node.name} stays in float: {why}" for node, why in placement.left_in_float.items()]
        return rewritten

    def _quantize_weight(self, graph_module: fx.GraphModule, site: WeightSite, context: Context) -> Replacement:
        weight = attribute(graph_module, site.weight.target).detach()
        spec = self.weights or context.target.weights
        if self.per_channel:
            spec = replace(spec, channel_axis=site.channel_axis)
        reduced = [axis for axis in range(weight.dim()) if axis != spec.channel_axis]
        quantizer = Quantizer(spec, weight.shape)
        try:
            quantizer.set_range(weight.amin(reduced), weight.amax(reduced))
        except CalibrationError as problem:
            raise CalibrationError(f"{problem} in the weight {describe(site.weight)}; repair the model's weights") from None
        target = add_attribute(graph_module, f"{site.weight.name}_quantizer", quantizer)
        return self._insert(graph_module, site.weight, site.consumers, target)

    def _quantize_activation(
        self, graph_module: fx.GraphModule, site: ActivationSite, context: Context, shared: dict[str, str]
    ) -> Replacement:
        if site.group not in shared:
            quantizer = Quantizer(self.activations or context.target.activations)
            shared[site.group] = add_attribute(graph_module, f"{site.producer.name}_quantizer", quantizer)
        return self._insert(graph_module, site.producer, site.consumers, shared[site.group])

    def _insert(self, graph_module: fx.GraphModule, value: fx.Node, consumers: Iterable[fx.Node], target: str) -> Replacement:
        """Put a call of the quantizer `target` between `value` and `consumers`."""
        graph = graph_module.graph
        place_after = value
        while value.op in ("placeholder", "get_attr") and place_after.next.op in ("placeholder", "get_attr"):
            place_after = place_after.next
        with graph.inserting_after(place_after):
            node = graph.create_node("call_module", target, (value,), name=f"{value.name}_quantizer")
        for key in ("val", "scope", "stack_trace"):
            if key in value.meta:
                node.meta[key] = value.meta[key]
        node.meta["created_by"] = self.name
        for consumer in consumers:
            consumer.replace_input_with(value, node)
        return Replacement(rule="", root=value.name, node=node.name, source=source_line(value))

    @staticmethod
    def _mark_regions(graph_module: fx.GraphModule, context: Context) -> None:
        """Name the kernels of the target: an operation that computes, and what is fused to it."""
        target = context.target
        heads = target.weighted.keys() | target.products.keys() | target.elementwise.keys()
        for node in graph_module.graph.nodes:
            if node.target in heads and "region" not in node.meta:
                chain = list(fused_chain(node, target.fused))
                for member in chain if len(chain) > 1 else ():
                    member.meta["region"] = node.name
