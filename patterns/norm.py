"""Batch norm and how it folds into the weights before it; layer norm and RMS norm spelled out in smaller operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

from fxcompress.ir.edit import is_trained, name_of
from fxcompress.pattern import Pattern, op, var
from fxcompress.quantization.folding import scaled
from fxcompress.quantization.quantized import quantizer_of
from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import rewrite

x, gamma, beta, mean, variance, eps = var("x gamma beta mean variance eps")


def normed(value: Pattern) -> Pattern:
    """`value` in a batch norm that uses its running statistics (Ioffe and Szegedy, arXiv 1502.03167)."""
    return op.batch_norm(value, gamma, beta, mean, variance, ..., eps=eps, training=False)


batch_norm = normed(x).named("bn")
"""A batch norm alone, on its running statistics: a scale and a shift per channel."""


def scale_and_shift(new: Builder, gamma, beta, mean, variance, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch norm of these `get_attr` nodes as y = x * scale + shift, per channel, in float64."""
    scale = torch.rsqrt(new.tensor(variance).double() + eps)
    if gamma is not None:
        scale = scale * new.tensor(gamma).double()
    shift = -new.tensor(mean).double() * scale
    return scale, shift if beta is None else shift + new.tensor(beta).double()


def fold(
    new: Builder, layer: fx.Node, w, b, gamma, beta, mean, variance, eps: float, transposed_groups: int | None = None
) -> fx.Node | None:
    """`layer` with its weight `w` and bias `b` scaled and shifted as the batch norm behind it would; None if they cannot be.

    A weight may be quantized: its integers stay as they are, and the scales of its quantizer are multiplied.

    Args:
        transposed_groups: of a transposed convolution, whose weight has the shape ``[in, out / groups, ...]``.
    """
    constant = _constant(new, w)
    if constant is None or mean is None or not new.is_constant(b, gamma, beta, mean, variance):
        return None
    scale, shift = scale_and_shift(new, gamma, beta, mean, variance, eps)
    if constant is w:
        weight = folded_weight(new, w, scale, transposed_groups)
    else:
        weight = _folded_quantized_weight(new, w, scale, transposed_groups)
    return weight and new.like(layer, weight=weight, bias=folded_bias(new, constant, b, beta, scale, shift))


def _constant(new: Builder, w) -> fx.Node | None:
    """The constant that the weight `w` is, or that it is quantized from."""
    quantized = isinstance(w, fx.Node) and quantizer_of(new.graph_module, w) is not None
    constant = w.args[0] if quantized else w
    return constant if constant is not None and new.is_constant(constant) else None


def folded_weight(new: Builder, w: fx.Node, scale: torch.Tensor, transposed_groups: int | None = None) -> fx.Node:
    """The weight `w` with each output channel multiplied by its `scale`, as a new parameter.

    Output channels come first; in a transposed convolution of g groups, of shape [in, out / g, ...], second within each
    group of inputs.
    """
    weight = new.tensor(w)
    scale = scale.to(torch.promote_types(weight.dtype, torch.float32))
    if transposed_groups is None:
        product = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    else:
        per_channel = scale.reshape(transposed_groups, 1, -1, *[1] * (weight.dim() - 2))
        product = (weight.unflatten(0, (transposed_groups, -1)) * per_channel).flatten(0, 1)
    return new.replacement(product.to(weight.dtype), w, name=f"{w.target}_folded")


def _folded_quantized_weight(new: Builder, w: fx.Node, scale: torch.Tensor, transposed_groups: int | None) -> fx.Node | None:
    """As `folded_weight`, of the quantizer's call `w`; None where the grid has no scale for each output channel."""
    quantizer, constant = quantizer_of(new.graph_module, w), w.args[0]
    assert quantizer is not None
    if not quantizer.enabled:
        return folded_weight(new, constant, scale, transposed_groups)
    if not quantizer.ready or (transposed_groups or 1) > 1:
        return None
    folded = scaled(quantizer, new.tensor(constant), scale, axis=0 if transposed_groups is None else 1)
    if folded is None:
        return None
    weight, scales = folded
    return new.module(scales, new.replacement(weight, constant, name=f"{constant.target}_folded"), name=f"{w.target}_folded")


def folded_bias(
    new: Builder, w: fx.Node, b: fx.Node | None, beta: fx.Node | None, scale: torch.Tensor, shift: torch.Tensor
) -> fx.Node:
    """The bias after folding, as a new parameter named after the old one, or after the weight where there was none.

    It moves what comes out as `b` and `beta` did, so it is trained where either is.
    """
    bias = shift if b is None else new.tensor(b).double() * scale + shift
    path = str(w.target).removesuffix("weight") + "bias" if b is None else str(b.target)
    meant = name_of(w).removesuffix("weight") + "bias" if b is None else name_of(b)
    trained = any(is_trained(new.graph_module, one) for one in (b, beta) if one is not None)
    bias = bias.to(new.tensor(w).dtype)
    return new.replacement(bias, w if b is None else b, name=f"{path}_folded", stands_for=meant, trained=trained)


def _mean(value: Pattern) -> Pattern:
    return op.mean(value, [-1], True)


def _reciprocal_scaled(value: Pattern, squared: Pattern) -> Pattern:
    """`value` / sqrt(`squared`), in the ways to write it."""
    root = op.sqrt(squared) | op.pow(squared, 0.5)
    return value / root | value * op.rsqrt(squared) | value * op.pow(squared, -0.5) | value * op.reciprocal(root)


_centred = op.sub(x, _mean(x))
_square = op.pow(_centred, 2) | op.mul(_centred, _centred)
_variance = (
    _mean(_square)
    | op["var.correction"](x, [-1], correction=0, keepdim=True)
    | op["var.correction"](_centred, [-1], correction=0, keepdim=True)
    | op["var.dim"](x, [-1], False, True)
)
_layer_normed = op.add(op.mul(_reciprocal_scaled(_centred, op.add(_variance, eps)), gamma), beta)

layer_norm = op.layer_norm(x, ...) | _layer_normed
"""Layer norm, as one operation or as (x - mean) / sqrt(variance + eps) * gamma + beta over the last dimension.

Ba, Kiros and Hinton, arXiv 1607.06450, equation 4.
"""

_mean_square = _mean(op.pow(x, 2) | op.mul(x, x))

rms_norm = op.mul(_reciprocal_scaled(x, op.add(_mean_square, eps)), gamma) | op.rms_norm(x, ...)
"""RMS norm over the last dimension: x / sqrt(mean(x^2) + eps) * gamma (Zhang and Sennrich, arXiv 1910.07467)."""


class _LayerNorm(nn.Module):
    """A layer norm written out; `variance` of x, its mean and its deviation from it."""

    def __init__(self, variance: Callable[..., torch.Tensor], eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.variance, self.eps = variance, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(self.variance(x, centred) + self.eps)) + self.bias


class _ReciprocalLayerNorm(_LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) * torch.rsqrt(self.eps + self.variance(x, x - mean)) * self.weight + self.bias


class _ExposedLayerNorm(_LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(self.variance(x, centred) + self.eps) * self.weight + self.bias + centred


@rewrite(
    _layer_normed,
    accept=[
        Example(lambda: _LayerNorm(lambda x, c: c.pow(2).mean(-1, keepdim=True)), (2, 3, 6)),
        Example(lambda: _LayerNorm(lambda x, c: (c * c).mean(-1, keepdim=True)), (2, 3, 6)),
        Example(lambda: _LayerNorm(lambda x, c: x.var(-1, keepdim=True, unbiased=False)), (2, 6)),
        Example(lambda: _ReciprocalLayerNorm(lambda x, c: c.var(-1, keepdim=True, correction=0)), (2, 3, 6)),
        Example(lambda: _ReciprocalLayerNorm(lambda x, c: (c**2).mean(-1, keepdim=True)), (2, 3, 6)),
    ],
    reject=[
        Example(lambda: _LayerNorm(lambda x, c: x.var(-1, keepdim=True)), (2, 3, 6)),
        Example(lambda: _LayerNorm(lambda x, c: c.pow(2).mean(1, keepdim=True)), (2, 3, 6)),
        Example(lambda: _LayerNorm(lambda x, c: c.pow(3).mean(-1, keepdim=True)), (2, 3, 6)),
        Example(lambda: _ExposedLayerNorm(lambda x, c: c.pow(2).mean(-1, keepdim=True)), (2, 3, 6)),
    ],
)
def recognize_layer_norm(new: Builder, x, gamma, beta, eps):
    """Put one layer norm for (x - mean) / sqrt(variance + eps) * gamma + beta, where gamma and beta are vectors."""
    width = new.shape(x)[-1]
    if not isinstance(eps, float) or not new.is_constant(gamma, beta):
        return None
    if not all(tuple(new.shape(vector)) == (width,) for vector in (gamma, beta)):
        return None
    return new.layer_norm(x, [width], gamma, beta, eps)
