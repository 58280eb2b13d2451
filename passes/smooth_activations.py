"""Move the spread between the channels of an activation into the weights of the linear layers that read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError
from fxcompress.execution.observe import check_finite, observe
from fxcompress.execution.precision import Precision
from fxcompress.execution.relevance import relevant_inputs
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_call, insert_constant
from fxcompress.ir.signature import argument
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.rewrite.rule import Replacement
from fxcompress.targets import Target

LINEAR, TRANSPOSE, LAYER_NORM, MULTIPLY, ADD = map(resolve, ("linear", "transpose", "layer_norm", "mul", "add"))

THRESHOLDS = tuple(0.7**step for step in range(10))
"""What is tried for the widest channel that stays as it is, as a share of the widest of all: down to 1/25."""


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
    activations of three dimensions and more (samples, tokens, channels) are smoothed.

    Args:
        samples: of the calibration data, at most; None for all. As many as `Calibrate` is given: a value that is beyond the
            widest one seen here is widened further by its channel's factor.
        tokens: that thresholds are tried on, at most; more of them hardly move the choice. They are taken from among four times
            as many.
        token_samples: of the data that they are taken from, at most.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
        CalibrationError: an activation is NaN or infinite.
    """

    samples: int | None = 300
    tokens: int = 256
    token_samples: int = 32
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.ROUNDING

    def __post_init__(self) -> None:
        for name in ("tokens", "token_samples"):
            if getattr(self, name) < 1:
                raise InputError(f"SmoothActivations needs {name} of 1 or more, got {getattr(self, name)!r}")

    @torch.no_grad()
    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        readers = _linear_readers(graph_module.graph)
        if not readers:
            return []
        bounds = {value: _Bounds() for value in readers}
        for value, x in observe(graph_module, context, readers, samples=self.samples, precision=self.precision):
            bounds[value].update(x)
        tokens = self._tokens(graph_module, context, [linear for linears in readers.values() for linear in linears])
        for value, linears in readers.items():
            check_finite(value, bounds[value].high - bounds[value].low)
            layers = [_Linear(graph_module, linear) for linear in linears]
            chosen = _best(bounds[value], [(tokens[layer.node], layer.rows) for layer in layers], context.target)
            self._smooth(graph_module, value, layers, chosen)
        return [Replacement.at(value) for value in readers]

    def _tokens(self, graph_module: fx.GraphModule, context: Context, linears: Sequence[fx.Node]) -> dict[fx.Node, Tensor]:
        """What each of `linears` reads, ``[tokens, channels]``."""
        found: dict[fx.Node, list[Tensor]] = {linear: [] for linear in linears}
        for linear, rows in relevant_inputs(
            graph_module,
            context,
            linears,
            samples=self.token_samples,
            enough=4 * self.tokens,
            precision=self.precision,
        ):
            found[linear].append(rows)
        joined = {linear: torch.cat(parts) for linear, parts in found.items()}
        return {linear: rows[:: max(1, math.ceil(len(rows) / self.tokens))] for linear, rows in joined.items()}

    def _smooth(self, graph_module: fx.GraphModule, value: fx.Node, layers: Sequence[_Linear], chosen: _Smoothing) -> None:
        for layer in layers:
            self._make_up(graph_module, layer, chosen)
        linears, factor, shift = [layer.node for layer in layers], chosen.factor, chosen.shift
        alone = value.users.keys() == set(linears) and _is_scaled_by_constants(value)
        if alone and value.target is LAYER_NORM:
            self._smooth_layer_norm(graph_module, value, chosen)
            return
        if alone:
            held = value.args[1]
            divided = attribute(graph_module, held.target).detach() / factor
            value.replace_input_with(held, self._constant(graph_module, held.target, divided, value))
        else:
            value = self._insert(graph_module, MULTIPLY, value, linears, "smoothed", 1 / factor)
        if shift is not None:
            self._insert(graph_module, ADD, value, linears, "centred", -shift / factor)

    def _make_up(self, graph_module: fx.GraphModule, layer: _Linear, chosen: _Smoothing) -> None:
        """Let `layer` compute from ``(x - shift) / factor`` what it computed from x."""
        factor = chosen.factor
        smoothed = layer.tensor * (factor[:, None] if layer.transposed else factor)
        name = f"{layer.constant.target}_smoothed"
        layer.reader.replace_input_with(layer.constant, self._parameter(graph_module, name, smoothed, layer.reader))
        if chosen.shift is not None:
            bias = layer.rows @ chosen.shift + (0.0 if layer.bias is None else layer.bias)
            held = self._parameter(graph_module, f"{layer.constant.target}_centred_bias", bias, layer.node)
            layer.node.args = (*layer.node.args[:2], held)

    def _smooth_layer_norm(self, graph_module: fx.GraphModule, norm: fx.Node, chosen: _Smoothing) -> None:
        shape = argument(norm, "normalized_shape")
        held = {"weight": torch.ones(shape), "bias": torch.zeros(shape)}
        for name in held:
            if (constant := argument(norm, name)) is not None:
                held[name] = attribute(graph_module, constant.target).detach()
        smoothed = {"weight": held["weight"] / chosen.factor, "bias": chosen(held["bias"])}
        made = [self._parameter(graph_module, f"{norm.name}_{name}_smoothed", x, norm) for name, x in smoothed.items()]
        norm.args = (*norm.args[:2], *made, *norm.args[4:])

    def _insert(
        self,
        graph_module: fx.GraphModule,
        operation: Any,
        value: fx.Node,
        readers: Sequence[fx.Node],
        name: str,
        operand: Tensor,
    ) -> fx.Node:
        """Let `readers` read `operation` of `value` and the constant `operand`."""
        node = insert_call(value, readers, operation, name=f"{value.name}_{name}", created_by=self.name)
        node.args = (value, self._constant(graph_module, f"{value.name}_{name}_by", operand, node))
        return node

    def _constant(self, graph_module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
        return insert_constant(graph_module, name, value, before=before, created_by=self.name)

    def _parameter(self, graph_module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
        return self._constant(graph_module, name, torch.nn.Parameter(value), before)


class _Linear:
    """A linear layer, and the constant behind its weight: `rows` is [outputs, inputs], `tensor` perhaps its transpose."""

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node):
        self.node, weight = node, node.args[1]
        self.constant = _constant_behind(weight)
        self.transposed = weight is not self.constant
        self.reader = weight if self.transposed else node
        self.tensor = attribute(graph_module, self.constant.target).detach()
        self.rows = self.tensor.T if self.transposed else self.tensor
        bias = argument(node, "bias")
        self.bias = None if bias is None else attribute(graph_module, bias.target).detach()


class _Bounds:
    """The lowest and highest value of each channel."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def update(self, x: Tensor) -> None:
        x, reduced = x.float(), tuple(range(x.dim() - 1))
        self.low, self.high = torch.minimum(self.low, x.amin(reduced)), torch.maximum(self.high, x.amax(reduced))


@dataclass(frozen=True)
class _Smoothing:
    """What becomes of an activation x: ``(x - shift) / factor``; both ``[channels]``, the shift None for 0."""

    factor: Tensor
    shift: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return (x if self.shift is None else x - self.shift) / self.factor


def _candidates(bounds: _Bounds) -> Iterator[_Smoothing]:
    """As they are tried, for channels within `bounds`."""
    for shift in (None, (bounds.high + bounds.low) / 2):
        centre = 0.0 if shift is None else shift
        width = torch.maximum(centre - bounds.low, bounds.high - centre)
        widest = width.max().clamp(min=1e-30)
        yield from (_Smoothing((width / (widest * share)).clamp(min=1), shift) for share in THRESHOLDS)


def _best(bounds: _Bounds, layers: Sequence[tuple[Tensor, Tensor]], target: Target) -> _Smoothing:
    """The candidate with which the outputs of `layers` lose least.

    Args:
        layers: what each reads, [tokens, channels], and its weight, [outputs, channels].
    """
    exact = [x @ weight.T for x, weight in layers]
    activations, weights = Quantizer(target.activations), [_row_quantizer(target, weight) for _, weight in layers]

    def loss(tried: _Smoothing) -> float:
        activations.set_range(tried(bounds.low).min(), tried(bounds.high).max())
        total = 0.0
        for (x, weight), quantizer, wanted in zip(layers, weights, exact):
            scaled = weight * tried.factor
            quantizer.set_range(scaled.amin(1), scaled.amax(1))
            known = 0.0 if tried.shift is None else weight @ tried.shift  # what the bias takes up
            total += (activations(tried(x)) @ quantizer(scaled).T + known - wanted).square().sum().item()
        return total

    return min(_candidates(bounds), key=loss)


def _row_quantizer(target: Target, weight: Tensor) -> Quantizer:
    return Quantizer(replace(target.weights, channel_axis=0), weight.shape)


def _linear_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The linear layers with constant weights that read each value of three dimensions or more."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for linear in graph.find_nodes(op="call_function", target=LINEAR):
        value, bias = linear.args[0], argument(linear, "bias")
        constant = _constant_behind(linear.args[1]) is not None and (bias is None or bias.op == "get_attr")
        if value.op == "call_function" and value.meta["val"].dim() >= 3 and constant:
            found.setdefault(value, []).append(linear)
    return found


def _is_scaled_by_constants(value: fx.Node) -> bool:
    """Whether `value` is scaled by constants: a layer norm, or a product with one."""
    scales = {LAYER_NORM: ("weight", "bias"), MULTIPLY: ("other",)}.get(value.target, ())
    constants = [argument(value, name) for name in scales]
    return bool(scales) and all(held is None or (isinstance(held, fx.Node) and held.op == "get_attr") for held in constants)


def _constant_behind(weight: Any) -> Any:
    """The constant that `weight` is, or is the transpose of, or None."""
    source = weight.args[0] if weight.target is TRANSPOSE else weight
    return source if source.op == "get_attr" else None
