"""Where quantizers go: from a target's table and a graph to the edges that carry integers.

Demand starts at the operations that the target executes in integers, and travels against the data flow: through
operations that only move values, into the parts of a concatenation (which then share one scale), and across
elementwise operations whose own result is quantized. It stops at the value that was computed; one quantizer there serves
every consumer that asked for the same grid.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import networkx as nx
import torch
from torch import fx

from fxcompress.ir.constants import constants
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import is_trained
from fxcompress.masks.mask import constant_behind
from fxcompress.quantization.pairs import adds_up_pairs
from fxcompress.quantization.regions import behind_dropouts, fused_chain
from fxcompress.quantizers.options import QuantizationOptions, QuantizerOptions
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.targets.table import Target, Weighted

ADD, SOFTMAX, TRANSPOSE = resolve("add"), resolve("softmax"), resolve("transpose")

FEW_ROWS = 4
"""A table of so many rows, such as the two of token types in BERT, takes no bytes worth saving, and since all tokens read the
same rows, their rounding does not average out."""


@dataclass(frozen=True)
class ActivationSite:
    """A quantizer on the value of `producer`, read by `consumers`; sites of one `group` and options share a scale."""

    producer: fx.Node
    consumers: tuple[fx.Node, ...]
    group: str
    options: QuantizerOptions


@dataclass(frozen=True)
class WeightSite:
    """A quantizer on `weight`, a constant or a mask of one, read by `consumers`, with one scale an index of `channel_axis`."""

    weight: fx.Node
    consumers: tuple[fx.Node, ...]
    channel_axis: int
    options: QuantizerOptions


@dataclass
class Placement:
    """All sites of a graph in topological order.

    `operations` are those that the sites are for, `left_in_float` those that cannot be served, with the reason,
    `float_activations` those whose weight alone is quantized, with the reason.
    """

    activations: list[ActivationSite] = field(default_factory=list)
    weights: list[WeightSite] = field(default_factory=list)
    operations: set[fx.Node] = field(default_factory=set)
    left_in_float: dict[fx.Node, str] = field(default_factory=dict)
    float_activations: dict[fx.Node, str] = field(default_factory=dict)


def place(
    graph: fx.Graph,
    target: Target,
    options: Mapping[fx.Node, QuantizationOptions],
    ignored: Collection[fx.Node] = (),
    values: Mapping[fx.Node, QuantizationOptions] | None = None,
) -> Placement:
    """Decide every site in `graph` for `target`; operations in `ignored` stay in float.

    `options` says for each operation how its weight and the activations that it reads are quantized. Where the readers of
    one value disagree, each gets the quantizer that it asks for. `values` says, for some nodes, how what they compute is
    quantized, whoever reads it.
    """
    return _Placer(graph, target, options, ignored, values or {}).place()


class _Placer:
    def __init__(
        self,
        graph: fx.Graph,
        target: Target,
        options: Mapping[fx.Node, QuantizationOptions],
        ignored: Collection[fx.Node],
        values: Mapping[fx.Node, QuantizationOptions],
    ):
        self.graph, self.target, self.options, self.ignored = graph, target, options, set(ignored)
        self.values = values
        self.ranks = {node: rank for rank, node in enumerate(graph.nodes)}
        self.constants: set[object] = {*constants(graph)}
        self.demands: dict[fx.Node, dict[fx.Node, QuantizerOptions]] = {}  # value -> the users that want it quantized
        self.weights: dict[tuple[fx.Node, int, QuantizerOptions], list[fx.Node]] = {}
        self.same_scale = nx.Graph()  # of (value, options): an edge where both hold the same numbers, or parts of them
        self.operations: set[fx.Node] = set()
        self.left: dict[fx.Node, str] = {}
        self.float_activations: dict[fx.Node, str] = {}

    def place(self) -> Placement:
        for node in reversed(self.graph.nodes):  # every reader of a value is visited before the value
            if node.op == "call_function" and node not in self.ignored:
                self._visit(node)
        values = sorted(self.demands, key=self.ranks.__getitem__)
        sites = [site for value in values for site in self._sites(value)]
        weights = [WeightSite(weight, tuple(users), axis, how) for (weight, axis, how), users in self.weights.items()]
        weights.sort(key=lambda site: self.ranks[site.weight])
        return Placement(sites, weights, self.operations, self.left, self.float_activations)

    def _sites(self, value: fx.Node) -> Iterator[ActivationSite]:
        """A site for each kind of quantizer that readers of `value` want."""
        readers: dict[QuantizerOptions, list[fx.Node]] = {}
        for user in sorted(self.demands[value], key=self.ranks.__getitem__):
            readers.setdefault(self._of_value(value, self.demands[value][user]), []).append(user)
        for options, users in readers.items():
            if value in self.values:
                yield ActivationSite(value, tuple(users), value.name, options)
                continue
            wanted = (value, options)
            kin = nx.node_connected_component(self.same_scale, wanted) if wanted in self.same_scale else {wanted}
            alike = [other for other, _ in kin if options in self.demands.get(other, {}).values()]
            first = min(alike, key=self.ranks.__getitem__)
            yield ActivationSite(value, tuple(users), first.name, options)

    def _of_value(self, value: fx.Node, wanted: QuantizerOptions) -> QuantizerOptions:
        """What the reader gets who wants a quantizer for `value`: kernels decide on the sign, and products on symmetry."""
        if value not in self.values:
            return wanted
        given = self.values[value].activation
        symmetric, signed = given.spec.symmetric or wanted.spec.symmetric, wanted.spec.signed or given.spec.signed
        spec = replace(given.spec, symmetric=symmetric, signed=signed, operand=wanted.spec.operand)
        return replace(given, spec=spec, estimator=given.estimator or wanted.estimator)

    def _visit(self, node: fx.Node) -> None:
        target = self.target
        exception = target.exceptions.get(node.target, lambda node: None)(node)
        if exception:
            self.left[node] = exception
        elif node.target in target.weights_only and not self.options[node].embeddings:
            self.left[node] = "embeddings are not to be quantized"
        elif node.target in target.weights_only and self._rows(node) <= FEW_ROWS:
            self.left[node] = f"its table has no more than {FEW_ROWS} rows"
        elif node.target in target.weighted:
            self._visit_weighted(node, target.weighted[node.target])
        elif node.target in target.kernels and self.options[node].weights_only:
            return
        elif node.target in target.products:
            product, options = target.products[node.target], self.options[node].activation
            symmetric = replace(options, spec=replace(options.spec, symmetric=True))
            signed = replace(options, spec=replace(symmetric.spec, signed=True))
            operands = {i: signed if i in product.signed else symmetric for i in product.operands}
            if product.paired is not None and self.options[node].reduce_range:
                operands[product.paired] = replace(signed, spec=replace(signed.spec, operand=True))
            self._demand_all(node, operands)
        elif node.target in target.elementwise:
            if self._result_is_quantized(node) and not self._is_fused(node):
                self._demand_all(node, dict.fromkeys(target.elementwise[node.target], self.options[node].activation))
        elif node.target in target.transparent or node.target in target.joining:
            self._pass_through(node)

    def _visit_weighted(self, node: fx.Node, how: Weighted) -> None:
        data, weight = None if how.data is None else node.args[how.data], node.args[how.weight]
        reader, axis = node, how.channel_axis
        if isinstance(weight, fx.Node) and weight.target is TRANSPOSE and weight.meta["val"].dim() == 2:
            reader, weight, axis = weight, weight.args[0], 1 - axis
        if data in self.constants:
            return  # runtimes compute it once
        if not isinstance(weight, fx.Node) or constant_behind(self.graph.owning_module, weight) is None:
            self.left[node] = "its weight is computed by the graph, not a constant"
        elif self._is_expectation(data, weight):
            self.left[node] = "it takes the mean of fixed values by a softmax, which eight bits would blur"
        elif data is not None and not _is_float(data):
            self.left[node] = "its input is not a float tensor"
        else:
            options = self._settled(self.options[node].weight, paired=adds_up_pairs(node, weight, how))
            refusal = self._refusal(options.quantizer(_shape(weight), axis).spec)
            if self.options[node].weights_only:
                data = None
            if data is not None and refusal is None:
                self._demand(data, node, self.options[node].activation)
            elif refusal is not None and data is not None:
                self.float_activations[node] = refusal
            readers = self.weights.setdefault((weight, axis, options), [])
            if reader not in readers:
                readers.insert(0, reader)
            self.operations.add(node)

    def _settled(self, options: QuantizerOptions, paired: bool) -> QuantizerOptions:
        """`options` of a weight; a sign that is left to the data is that which kernels read, where they read one only."""
        spec = options.spec if paired else replace(options.spec, pairs=False)
        if self.target.signed_weights and spec.symmetric and spec.signed is None and spec.bits == 8:
            spec = replace(spec, signed=True)
        return replace(options, spec=spec)

    def _refusal(self, spec: QuantizationSpec) -> str | None:
        """Why integer kernels do not read weights on this grid, or None.

        One of fewer bits fits 8 signed ones, relative to its zero point.
        """
        if spec.group_size is not None:
            return "integer kernels read no groups of weights"
        if self.target.signed_weights and spec.bits == 8 and not (spec.symmetric and spec.signed):
            return "integer kernels read signed weights without a zero point only; take symmetric weights, or 7 bits"
        return None

    def _is_expectation(self, data: object, weight: fx.Node) -> bool:
        """Whether `weight`, which nothing trains, weighs probabilities: as box decoders do (arXiv 2006.04388, equation 4)."""
        module = self.graph.owning_module
        constant = constant_behind(module, weight)
        if constant is None or not isinstance(data, fx.Node) or is_trained(module, constant):
            return False
        source = data
        while source.target in self.target.transparent:
            source = source.args[0]  # type: ignore[assignment]
        return source.target is SOFTMAX

    def _rows(self, node: fx.Node) -> int:
        """Of the table that `node` looks up."""
        return _shape(node.args[self.target.weighted[node.target].weight])[0]

    def _demand_all(self, node: fx.Node, operands: Mapping[int, QuantizerOptions]) -> None:
        """Quantize all `operands`, given by position, or none: a kernel with one float operand is not an integer kernel.

        A constant is not quantized, nor what is computed from constants alone: runtimes compute that once.
        """
        if all(_is_float(node.args[i]) and node.args[i] not in self.constants for i in operands):
            accumulated = self._accumulated(node)
            for position, options in operands.items():
                if position != accumulated:
                    self._demand(node.args[position], node, options)
            self.operations.add(node)

    def _accumulated(self, node: fx.Node) -> int | None:
        """The operand of the addition `node` whose kernel adds the other one: the last that is computed, of two."""
        if node.target is not ADD or not self.target.accumulates:
            return None
        found = [i for i in (0, 1) if self._accumulates(node.args[i]) and _shape(node.args[i]) == _shape(node)]
        return max(found, key=lambda i: self.ranks[node.args[i]], default=None)

    def _accumulates(self, value: fx.Node) -> bool:
        """Whether a kernel with a weight, and what is fused to it, computes `value` for a single reader."""
        value = behind_dropouts(value)
        while len(value.users) == 1 and value.target in self.target.fused:
            value = behind_dropouts(value.args[0])
        return len(value.users) == 1 and value.target in self.target.weighted.keys() - self.target.weights_only

    def _demand(self, value: fx.Node, user: fx.Node, options: QuantizerOptions) -> None:
        self.demands.setdefault(value, {})[user] = options

    def _pass_through(self, node: fx.Node) -> None:
        """Move the demand on what `node` puts out, where all readers agree on it, to what it takes in."""
        if not self.target.travels.get(node.target, lambda node: True)(node):
            return
        parts = [user for user in node.users if user.target is operator.getitem] or [node]
        if not all(map(self._is_wanted, parts)):
            return
        options, *others = {wanted for part in parts for wanted in self.demands[part].values()}
        if others:
            return
        for part in parts:
            del self.demands[part]
        sources = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
        for source in sources:
            self._demand(source, node, options)
        values = [value for value in (*parts, *sources) if value is not node]
        self.same_scale.add_edges_from(((node, options), (value, options)) for value in values)

    def _is_wanted(self, value: fx.Node) -> bool:
        """Whether every reader of `value` wants it quantized."""
        return bool(value.users) and self.demands.get(value, {}).keys() == value.users.keys()

    def _is_fused(self, node: fx.Node) -> bool:
        """Whether `node` runs inside the kernel that computes its input."""
        target, source = self.target, behind_dropouts(node.args[0])
        return node.target in target.fused and source.target in target.kernels and len(source.users) == 1

    def _result_is_quantized(self, node: fx.Node) -> bool:
        """Whether what `node` computes is wanted, after the operations that are fused to it."""
        *_, last = fused_chain(node, self.target.fused - {n.target for n in self.ignored})
        return self._is_wanted(last)


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["val"].shape


def _is_float(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return False
    tensor = value.meta.get("val")
    return isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
