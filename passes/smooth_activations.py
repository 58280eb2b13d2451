"""Move the spread between the channels of an activation into the weights of the linear layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxcompress.builder import attribute, insert_constant
from fxcompress.dialect import resolve
from fxcompress.effect import Effect
from fxcompress.errors import CalibrationError, InputError, describe, source_line
from fxcompress.observe import observe
from fxcompress.pipeline import Context, Pass
from fxcompress.precision import Precision
from fxcompress.rewrite import Replacement
from fxcompress.signature import argument

LINEAR, TRANSPOSE, LAYER_NORM, MULTIPLY = map(resolve, ("linear", "transpose", "layer_norm", "mul"))


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Divide the channels of what linear layers read by factors, and multiply their weights by the same.

    In transformers some channels are tens of times wider than the rest, and one scale for all of them leaves the rest
    few levels. Xiao et al., "SmoothQuant", arXiv 2211.10438, equations 3 and 4: the factor of channel j is
    ``max|X_j|^strength / max|W_j|^(1 - strength)``. Where a layer norm computes the activation for these layers alone, its
    weight and bias take up the factors; else a multiplication does, which OpenVINO joins with the quantization after it.

    Only activations of three dimensions and more (samples, tokens, channels) are smoothed.

    Args:
        strength: 0 leaves the activations as they are, 1 makes all their channels equally wide.
        samples: of the calibration data, at most; None for all. As many as `Calibrate` is given: a value that is beyond the
            widest one seen here is widened further by its channel's factor.
        precision: of the float model's forward pass; see `Calibrate`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or `strength` is not within 0 to 1.
        CalibrationError: an activation is NaN or infinite.
    """

    strength: float = 0.85
    samples: int | None = 300
    precision: Precision = "auto"

    effect: ClassVar[Effect] = Effect.ROUNDING

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InputError(f"SmoothActivations needs a strength from 0 to 1, got {self.strength!r}")

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        readers = _linear_readers(graph_module.graph)
        if not readers:
            return []
        widths: dict[fx.Node, Tensor] = {}
        for node, value in observe(graph_module, context, readers, samples=self.samples, precision=self.precision):
            width = value.float().abs().amax(tuple(range(value.dim() - 1)))
            widths[node] = torch.maximum(widths.get(node, width), width)
        for node, width in widths.items():
            if not width.isfinite().all():
                raise CalibrationError(f"{describe(node)} is NaN or infinite for some of the data; look for an overflow there")
            self._smooth(graph_module, node, readers[node], width)
        return [Replacement("", node.name, node.name, source_line(node)) for node in readers]

    def _smooth(self, graph_module: fx.GraphModule, value: fx.Node, linears: Sequence[fx.Node], width: Tensor) -> None:
        weights = [weight for linear in linears if (weight := _constant_behind(linear.args[1]))]
        tensors = [attribute(graph_module, weight.target).detach() for weight in weights]
        axes = [0 if linear.args[1].target is TRANSPOSE else 1 for linear in linears]  # of the input channels
        strongest = torch.stack([t.abs().amax(1 - axis) for t, axis in zip(tensors, axes)]).amax(0)
        factor = width**self.strength / strongest ** (1 - self.strength)
        factor = torch.where((width > 0) & (strongest > 0), factor, 1.0)
        for linear, weight, tensor, axis in zip(linears, weights, tensors, axes):
            reader = linear if linear.args[1] is weight else linear.args[1]
            smoothed = tensor * (factor if axis == 1 else factor[:, None])
            reader.replace_input_with(weight, self._parameter(graph_module, f"{weight.target}_smoothed", smoothed, reader))
        if _can_take_up(value, linears):
            self._divide_layer_norm(graph_module, value, factor)
        else:
            self._divide(graph_module, value, linears, factor)

    def _divide_layer_norm(self, graph_module: fx.GraphModule, norm: fx.Node, factor: Tensor) -> None:
        divided = {}
        for name in ("weight", "bias"):
            held = argument(norm, name)
            tensor = attribute(graph_module, held.target).detach() if held else torch.ones(()) if name == "weight" else None
            if tensor is not None:
                divided[name] = self._parameter(graph_module, f"{norm.name}_{name}_smoothed", tensor / factor, norm)
        norm.args = (*norm.args[:2], divided["weight"], divided.get("bias"), *norm.args[4:])

    def _divide(self, graph_module: fx.GraphModule, value: fx.Node, linears: Sequence[fx.Node], factor: Tensor) -> None:
        graph = value.graph
        with graph.inserting_after(value):
            divided = graph.create_node("call_function", MULTIPLY, (value, value), name=f"{value.name}_smoothed")
        divided.meta = {k: value.meta[k] for k in ("val", "scope", "stack_trace") if k in value.meta} | {
            "created_by": self.name
        }
        constant = insert_constant(graph_module, f"{value.name}_smoothing", 1 / factor, before=divided, created_by=self.name)
        divided.args = (value, constant)
        for linear in linears:
            linear.replace_input_with(value, divided)

    def _parameter(self, graph_module: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
        return insert_constant(graph_module, name, torch.nn.Parameter(value), before=before, created_by=self.name)


def _linear_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The linear layers with constant weights that read each value of three dimensions or more."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for linear in graph.find_nodes(op="call_function", target=LINEAR):
        value = linear.args[0]
        if value.op == "call_function" and value.meta["val"].dim() >= 3 and _constant_behind(linear.args[1]) is not None:
            found.setdefault(value, []).append(linear)
    return found


def _can_take_up(value: fx.Node, linears: Sequence[fx.Node]) -> bool:
    """Whether `value` is a layer norm with constant weight and bias that is there for `linears` alone."""
    if value.target is not LAYER_NORM or value.users.keys() != set(linears):
        return False
    return all(held is None or held.op == "get_attr" for held in (argument(value, "weight"), argument(value, "bias")))


def _constant_behind(weight: fx.Node) -> fx.Node | None:
    """The constant that `weight` is, or is the transpose of."""
    source = weight.args[0] if weight.target is TRANSPOSE else weight
    return source if source.op == "get_attr" else None
