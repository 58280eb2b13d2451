"""Move the spread between the channels of an activation into the weights of the linear layers that read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxcompress.builder import attribute, insert_call, insert_constant
from fxcompress.dialect import resolve
from fxcompress.effect import Effect
from fxcompress.errors import CalibrationError, InputError, describe
from fxcompress.observe import observe
from fxcompress.pipeline import Context, Pass
from fxcompress.precision import Precision
from fxcompress.quantization.quantizer import Quantizer
from fxcompress.relevance import relevant_inputs
from fxcompress.rewrite import Replacement
from fxcompress.signature import argument
from fxcompress.targets import Target

LINEAR, TRANSPOSE, LAYER_NORM, MULTIPLY = map(resolve, ("linear", "transpose", "layer_norm", "mul"))

THRESHOLDS = tuple(0.8**step for step in range(16))
"""What is tried for the widest channel that stays as it is, as a share of the widest of all: down to 1/28."""


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Divide the widest channels of what linear layers read by factors, and multiply their weights by the same.

    In transformers a few channels are tens of times wider than the rest, and one scale for all of them leaves the rest few
    levels. Wei et al., "Outlier Suppression+", arXiv 2304.09145: the factor of channel j is ``max(1, max|X_j| / t)``, and
    the threshold t the one for which the layers' outputs, with inputs and weights quantized, are nearest to the float
    model's, on tokens that the model's outputs depend on (`fxcompress.relevance`). (Dividing all channels by a
    power of their width, as in Xiao et al., "SmoothQuant", arXiv 2211.10438, costs the weights more.)

    Where a layer norm, or a product with a constant, computes the activation for these layers alone, it takes up the factors;
    else a multiplication does, which OpenVINO joins with the quantization after it. Only activations of three dimensions and
    more (samples, tokens, channels) are smoothed.

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
            if not bounds[value].width.isfinite().all():
                raise CalibrationError(f"{describe(value)} is NaN or infinite for some of the data; look for an overflow there")
            layers = [_Linear(graph_module, linear) for linear in linears]
            factor = _best_factor(bounds[value], [(tokens[layer.node], layer.rows) for layer in layers], context.target)
            self._smooth(graph_module, value, layers, factor)
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

    def _smooth(self, graph_module: fx.GraphModule, value: fx.Node, layers: Sequence[_Linear], factor: Tensor) -> None:
        for layer in layers:
            smoothed = layer.tensor * (factor[:, None] if layer.transposed else factor)
            name = f"{layer.constant.target}_smoothed"
            layer.reader.replace_input_with(layer.constant, self._parameter(graph_module, name, smoothed, layer.reader))
        linears = [layer.node for layer in layers]
        if value.users.keys() != set(linears) or not _can_take_up(value):
            self._divide(graph_module, value, linears, factor)
        elif value.target is LAYER_NORM:
            self._divide_layer_norm(graph_module, value, factor)
        else:
            held = value.args[1]
            divided = attribute(graph_module, held.target).detach() / factor
            value.replace_input_with(
                held, insert_constant(graph_module, held.target, divided, before=value, created_by=self.name)
            )

    def _divide_layer_norm(self, graph_module: fx.GraphModule, norm: fx.Node, factor: Tensor) -> None:
        divided = {}
        for name in ("weight", "bias"):
            held = argument(norm, name)
            tensor = attribute(graph_module, held.target).detach() if held else torch.ones(()) if name == "weight" else None
            if tensor is not None:
                divided[name] = self._parameter(graph_module, f"{norm.name}_{name}_smoothed", tensor / factor, norm)
        norm.args = (*norm.args[:2], divided["weight"], divided.get("bias"), *norm.args[4:])

    def _divide(self, graph_module: fx.GraphModule, value: fx.Node, linears: Sequence[fx.Node], factor: Tensor) -> None:
        divided = insert_call(value, linears, MULTIPLY, name=f"{value.name}_smoothed", created_by=self.name)
        constant = insert_constant(graph_module, f"{value.name}_smoothing", 1 / factor, before=divided, created_by=self.name)
        divided.args = (value, constant)

    def _parameter(self, graph_module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
        return insert_constant(graph_module, name, torch.nn.Parameter(value), before=before, created_by=self.name)


class _Linear:
    """A linear layer, and the constant behind its weight: `rows` is [outputs, inputs], `tensor` perhaps its transpose."""

    def __init__(self, graph_module: fx.GraphModule, node: fx.Node):
        self.node, weight = node, node.args[1]
        self.constant = _constant_behind(weight)
        self.transposed = weight is not self.constant
        self.reader = weight if self.transposed else node
        self.tensor = attribute(graph_module, self.constant.target).detach()
        self.rows = self.tensor.T if self.transposed else self.tensor


class _Bounds:
    """The lowest and highest value of each channel."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def update(self, x: Tensor) -> None:
        x, reduced = x.float(), tuple(range(x.dim() - 1))
        self.low, self.high = torch.minimum(self.low, x.amin(reduced)), torch.maximum(self.high, x.amax(reduced))

    @property
    def width(self) -> Tensor:
        return torch.maximum(-self.low, self.high)


def _best_factor(bounds: _Bounds, layers: Sequence[tuple[Tensor, Tensor]], target: Target) -> Tensor:
    """The factors, [channels], with which the outputs of `layers` lose least.

    Args:
        layers: what each reads, [tokens, channels], and its weight, [outputs, channels].
    """
    width = bounds.width
    candidates = [
        (width / (width.max() * share)).clamp(min=1) if width.any() else torch.ones_like(width) for share in THRESHOLDS
    ]
    exact = [x @ weight.T for x, weight in layers]
    activations, weights = Quantizer(target.activations), [_row_quantizer(target, weight) for _, weight in layers]

    def loss(factor: Tensor) -> float:
        activations.set_range((bounds.low / factor).min(), (bounds.high / factor).max())
        total = 0.0
        for (x, weight), quantizer, wanted in zip(layers, weights, exact):
            scaled = weight * factor
            quantizer.set_range(scaled.amin(1), scaled.amax(1))
            total += (activations(x / factor) @ quantizer(scaled).T - wanted).square().sum().item()
        return total

    return min(candidates, key=loss)


def _row_quantizer(target: Target, weight: Tensor) -> Quantizer:
    return Quantizer(replace(target.weights, channel_axis=0), weight.shape)


def _linear_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The linear layers with constant weights that read each value of three dimensions or more."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for linear in graph.find_nodes(op="call_function", target=LINEAR):
        value = linear.args[0]
        if value.op == "call_function" and value.meta["val"].dim() >= 3 and _constant_behind(linear.args[1]) is not None:
            found.setdefault(value, []).append(linear)
    return found


def _can_take_up(value: fx.Node) -> bool:
    """Whether `value` is scaled by constants: a layer norm, or a product with one."""
    scales = {LAYER_NORM: ("weight", "bias"), MULTIPLY: ("other",)}.get(value.target, ())
    constants = [argument(value, name) for name in scales]
    return bool(scales) and all(held is None or (isinstance(held, fx.Node) and held.op == "get_attr") for held in constants)


def _constant_behind(weight: Any) -> Any:
    """The constant that `weight` is, or is the transpose of, or None."""
    source = weight.args[0] if weight.target is TRANSPOSE else weight
    return source if source.op == "get_attr" else None
