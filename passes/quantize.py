"""Insert quantizers where the target computes in integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from torch import fx

from fxcompress.binarization.layers import binarized_layers
from fxcompress.data.caches import takes_cache
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import CalibrationError, describe, source_line
from fxcompress.ir.dialect import copy_graph, resolve
from fxcompress.ir.edit import add_attribute, insert_call
from fxcompress.ir.parameters import by_reason, untreated
from fxcompress.masks.mask import masked, source_constant
from fxcompress.pattern.scopes import Scope, left_alone, select
from fxcompress.quantization.placement import ActivationSite, WeightSite, place
from fxcompress.quantization.regions import mark_regions
from fxcompress.quantization.weights import fit
from fxcompress.quantizers.options import QuantizationOptions, Reduction, by_operation
from fxcompress.quantizers.ranges import Estimator, EstimatorName
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.report.units import listed
from fxcompress.rewrite.rule import Replacement

OUTPUT = "|OUTPUT"
TRANSPOSE = resolve("transpose")


@dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    """Quantize the weights, and put quantizers, still without a range, on the activations.

    Placement follows the target's table (`fxcompress.targets`); binarized layers are left alone. Weights are rounded at
    once; activations pass through unchanged until `Calibrate` sets their ranges.

    Args:
        weights: the weights' grid. Its channel axis is set operation by operation.
        activations: the activations' grid; None quantizes weights alone, so that files are small and compute in float.
        weight_estimator: chooses the weights' ranges: a name in `fxcompress.quantization.ranges.ESTIMATORS`, or an
            `Estimator`.
        activation_estimator: likewise, the activations'; None for the one that `Calibrate` is given.
        per_channel: one scale for each output channel of a weight, rather than one for all.
        reduce_range: x86 CPUs without VNNI (`fxcompress.targets.has_vnni`) add up products of bytes in pairs that saturate.
            ``"pairs"``: the steps of 8-bit weights are as wide as it takes for no pair to, channel by channel, and those of
            one operand of each product of two activations; True: 8-bit weights take 7 bits instead; False: files are for
            CPUs with VNNI alone.
        embeddings: quantize the tables of embeddings too, a scale a row.
        exact_sums: where the target's kernels can (`Target.accumulates`), have a convolution add a shortcut before anything is
            rounded. In OpenVINO the file then computes what the simulation does, at up to 5% of latency; else the kernel
            limits what is added to its range, but does not round it as the file says.
        scopes: quantize what is in these scopes alone (see `fxcompress.scopes.select`); None for all.
        ignored: scopes left in float (see `fxcompress.scopes.select`).
        overrides: scopes with options of their own for the operations in them: their weights, and the activations that
            they read. Where scopes overlap, the later one counts. A scope that ends with ``|OUTPUT`` is of the activations that
            they compute, whoever reads them, and counts more.

    Raises:
        ScopeError: an entry of `ignored` or `overrides` matches nothing.
        InputError: an option cannot be used, or contradicts another.
        CalibrationError: a weight holds NaN or infinity.
    """

    weights: QuantizationSpec | Literal["target"] = "target"
    activations: QuantizationSpec | Literal["target"] | None = "target"
    weight_estimator: EstimatorName | Estimator = "min_max"
    activation_estimator: EstimatorName | Estimator | None = None
    per_channel: bool = True
    reduce_range: Reduction = "pairs"
    embeddings: bool = True
    exact_sums: bool = False
    scopes: Iterable[Scope] | None = None
    ignored: Iterable[Scope] = ()
    overrides: Mapping[Scope, QuantizationOptions] | None = None

    effect: ClassVar[Effect] = Effect.LOSSY
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})
    breaks: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def __post_init__(self) -> None:
        for options in (self.overrides or {}).values():
            options.over(self._options)

    @property
    def _options(self) -> QuantizationOptions:
        given = {f.name: getattr(self, f.name) for f in fields(QuantizationOptions) if f.name != "weights_only"}
        own = {name: None if value == "target" else value for name, value in given.items()}
        return QuantizationOptions(**own, weights_only=self.activations is None)

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        graph = graph_module.graph
        target = context.target if self.exact_sums else replace(context.target, accumulates=False)
        if context.reference is None:
            context.reference = fx.GraphModule(graph_module, copy_graph(graph))
        _give_readers_their_own_transpose(graph)
        default = self._options.over(QuantizationOptions(weights=target.weights, activations=target.activations))
        given = {scope: options for scope, options in (self.overrides or {}).items() if not _is_output(scope)}
        outputs = {scope: options for scope, options in (self.overrides or {}).items() if _is_output(scope)}
        values = {n: o.over(default) for scope, o in outputs.items() for n in select(graph, [str(scope).removesuffix(OUTPUT)])}
        overrides = [(scope, select(graph, [scope]), options) for scope, options in given.items()]
        options = by_operation(graph, default, [(nodes, options) for _, nodes, options in overrides])
        binarized = {layer.node for layer in binarized_layers(graph_module)}
        alone = left_alone(graph, self.ignored, self.scopes) | binarized
        placement = place(graph, target, options, alone, values)
        shared: dict[object, str] = {}
        rewritten = [self._quantize_weight(graph_module, site, context) for site in placement.weights]
        rewritten += [self._quantize_activation(graph_module, site, shared) for site in placement.activations]
        mark_regions(graph, target)
        known = placement.operations | placement.left_in_float.keys() | alone
        others = untreated(graph_module, known, (), "no kernel is known that reads their parameters as integers")
        left = by_reason(placement.left_in_float | others)
        context.notes += [f"{listed(names)} stay{'s' * (len(names) == 1)} in float: {why}" for why, names in left.items()]
        if self.activations is None:
            context.notes.append("weights alone are quantized: the operations compute in float")
        elif takes_cache((context.example.args, context.example.kwargs)):
            context.notes.append(_GENERATES)
        real = by_reason(placement.float_activations)
        context.notes += [f"{listed(names)} read{'s' * (len(names) == 1)} real values: {why}" for why, names in real.items()]
        for scope, nodes, _ in overrides:
            if nodes.isdisjoint(placement.operations):
                asked = any(node.target in target.weights_only for node in nodes)
                hint = "; say embeddings=True to have its embeddings quantized" if asked else ""
                context.notes.append(f"nothing in the scope {scope!r} is quantized, so its override has no effect{hint}")
        return rewritten

    def _quantize_weight(self, graph_module: fx.GraphModule, site: WeightSite, context: Context) -> Replacement:
        weight, constant = masked(graph_module, site.weight), source_constant(site.weight)
        quantizer = site.options.quantizer(weight.shape, site.channel_axis)
        if quantizer.spec.group_size != site.options.spec.group_size:
            context.notes.append(f"{constant.name} has one scale a channel: its inputs are no more than a group")
        try:
            fit(quantizer, weight)
        except CalibrationError as problem:
            raise CalibrationError(f"{problem} in the weight {describe(constant)}; repair the model's weights") from None
        target = add_attribute(graph_module, f"{constant.name}_quantizer", quantizer)
        return self._insert(site.weight, site.consumers, target)

    def _quantize_activation(
        self, graph_module: fx.GraphModule, site: ActivationSite, shared: dict[object, str]
    ) -> Replacement:
        key = (site.group, site.options)
        if key not in shared:
            shared[key] = add_attribute(graph_module, f"{site.producer.name}_quantizer", site.options.quantizer())
        return self._insert(site.producer, site.consumers, shared[key], activation=True)

    def _insert(self, value: fx.Node, consumers: Iterable[fx.Node], target: str, *, activation: bool = False) -> Replacement:
        """Put a call of the quantizer `target` between `value` and `consumers`; a constant can be an activation."""
        named = source_constant(value) or value
        node = insert_call(value, consumers, target, name=f"{named.name}_quantizer", created_by=self.name)
        node.meta["activation"] = activation
        return Replacement(rule="", root=value.name, node=node.name, source=source_line(value))


_GENERATES = (
    "the model takes a cache, so it generates, and its time goes into reading weights: fxcompress.defaults.weights_only() "
    "compresses these to 4 bits, and loses less, since activations stay in float"
)


def _is_output(scope: Scope) -> bool:
    return isinstance(scope, str) and scope.endswith(OUTPUT)


def _give_readers_their_own_transpose(graph: fx.Graph) -> None:
    """Copy a transpose of a constant for each of its readers, since a quantizer before it may be for some of them."""
    for node in graph.find_nodes(op="call_function", target=TRANSPOSE):
        if source_constant(node.args[0]) is not None:
            for user in list(node.users)[1:]:
                with graph.inserting_after(node):
                    user.replace_input_with(node, graph.node_copy(node))
