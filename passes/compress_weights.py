"""Weights alone in few bits, for models whose time goes into reading them: language models that generate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.passes.quantize import Quantize
from fxcompress.passes.restore_precision import RestorePrecision
from fxcompress.passes.round_weights import RoundWeights
from fxcompress.pattern.scopes import Scope
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.rewrite.rule import Replacement
from fxcompress.targets import Target

LINEAR = resolve("linear")

Bits = Annotated[int, Ge(3), Le(8)]


@dataclass(frozen=True, kw_only=True)
class CompressWeights(Pass):
    """Quantize the weights alone: files get small, and operations compute in float on what they unpack.

    Linear layers get `bits`, with a scale for each `group_size` of their inputs; embeddings and heads, which a wrong step
    costs most, 8 bits and a scale a row. Convolutions get 8 bits: no runtime unpacks their weights as it reads them, so that
    their files get smaller and they do not get faster.

    Ranges are those of the least squared error. With calibration data, the integers, and the biases that there are, are then
    chosen by what they do to the layers' outputs (`RoundWeights`); without, each integer is the nearest.

    Args:
        bits: of the weights of linear layers.
        group_size: inputs that share a scale; None for one scale an output.
        symmetric: no zero points: a little smaller, and less exact.
        embeddings, head: bits of the tables, and of the linear layers whose results are the model's outputs, with nothing but
            operations on single values behind them; None leaves them in float.
        max_size: where there is room for it, the layers that lose most get 8 bits: as many as let the weights take this share
            of the original model's size (`RestorePrecision`). Needs data.
        ignored: scopes left in float (see `fxcompress.scopes.select`).
        overrides: scopes with options of their own. Where scopes overlap, the later one counts.

    Raises:
        ScopeError: an entry of `ignored` or `overrides` matches nothing.
        InputError: an option cannot be used; `max_size` is given, and there is no data, or the weights are larger already.
        CalibrationError: a weight holds NaN or infinity.
    """

    bits: Bits = 4
    group_size: Annotated[int, Ge(1)] | None = 128
    symmetric: bool = False
    embeddings: Bits | None = 8
    head: Bits | None = 8
    max_size: Annotated[float, Gt(0)] | None = None
    ignored: Iterable[Scope] = ()
    overrides: Mapping[Scope, QuantizationOptions] | None = None

    effect: ClassVar[Effect] = Effect.LOSSY
    gives: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    @property
    def reads_data(self) -> bool:  # type: ignore[override]
        return self.max_size is not None

    @property
    def size_limit(self) -> float | None:
        return self.max_size

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        linear = QuantizationSpec(bits=self.bits, symmetric=self.symmetric, group_size=self.group_size)
        heads = [node.name for node in _heads(graph_module.graph)]
        quantize = Quantize(
            weights=replace(linear, signed=True) if self.symmetric else linear,
            activations=None,
            weight_estimator="mse",
            embeddings=self.embeddings is not None,
            ignored=[*self.ignored, *(heads if self.head is None else ())],
            overrides={**self._exceptions(graph_module.graph, heads, context.target), **(self.overrides or {})},
        )
        done = quantize.run(graph_module, context)
        if self.max_size is not None:  # first: the layers behind those with more bits make up for what is left of errors
            RestorePrecision(max_size=self.max_size, bits=8).run(graph_module, context)
        if context.data is not None:
            RoundWeights(biases=True, sequential=True).run(graph_module, context)
        return done

    def _exceptions(self, graph: fx.Graph, heads: Iterable[str], target: Target) -> dict[Scope, QuantizationOptions]:
        """The options of what is no linear layer, or is a head; those of a head come last, and count."""

        def plain(bits: int | None) -> QuantizationOptions:
            return QuantizationOptions(weights=replace(target.weights, bits=bits or 8))

        others = {node.target for node in graph.nodes} & target.weighted.keys() - {LINEAR}
        kinds = {op: self.embeddings if op in target.weights_only else 8 for op in others}
        named: dict[Scope, QuantizationOptions] = {
            f"op:{op.overloadpacket.__name__}": plain(bits) for op, bits in kinds.items()
        }
        return named | dict.fromkeys(heads, plain(self.head))


def _heads(graph: fx.Graph) -> Iterator[fx.Node]:
    """The linear layers whose results are outputs, maybe after operations on single values."""
    for value in graph.output_node().all_input_nodes:
        while value.target is not LINEAR and value.op == "call_function" and len(value.all_input_nodes) == 1:
            (value,) = value.all_input_nodes
        if value.target is LINEAR:
            yield value
