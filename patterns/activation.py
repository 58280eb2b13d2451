"""Activations, each as one operation or spelled out in smaller ones, and the rules that put the one operation back."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from fxcompress.pattern import Pattern, op, var
from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import rewrite

x, slope = var("x slope")


def activated(value: Pattern) -> Pattern:
    """`value` in an activation that inference runtimes compute in the kernel that made it."""
    piecewise = op.relu(value) | op.clamp(value, ...) | op.leaky_relu(value, ...) | op.elu(value, ...)
    smooth = op.silu(value) | op.gelu(value, ...) | op.hardswish(value) | op.hardsigmoid(value) | op.mish(value)
    return piecewise | smooth | op.sigmoid(value) | op.tanh(value) | op.prelu(value, ...)


def scaled(value: Pattern, factor: float) -> Pattern:
    """`value` times a number, or divided by its inverse."""
    return op.mul(value, factor) | op.div(value, 1 / factor)


def scaled_product(left: Pattern, right: Pattern, factor: float) -> Pattern:
    """`left` * `right` * a number, in any order and association."""
    return scaled(left * right, factor) | scaled(left, factor) * right | left * scaled(right, factor)


_ramp = op.clamp(x + 3, 0, 6)
_composed_hardsigmoid = scaled(_ramp, 1 / 6) | op.clamp(scaled(x, 1 / 6) + 0.5, 0, 1) | op.clamp(scaled(x + 3, 1 / 6), 0, 1)
hardsigmoid = op.hardsigmoid(x) | _composed_hardsigmoid
"""clamp(x + 3, 0, 6) / 6 (Howard et al., MobileNetV3, arXiv 1905.02244, section 5.2)."""

_composed_hardswish = (x * hardsigmoid) | scaled_product(x, _ramp, 1 / 6)
hardswish = op.hardswish(x) | _composed_hardswish
"""x * clamp(x + 3, 0, 6) / 6 (Howard et al., MobileNetV3, arXiv 1905.02244, section 5.2)."""

_composed_silu = x * op.sigmoid(x)
silu = op.silu(x) | _composed_silu
"""x * sigmoid(x) (Elfwing et al., arXiv 1702.03118)."""

quick_gelu = x * op.sigmoid(scaled(x, 1.702))
"""x * sigmoid(1.702 x), the rougher approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""

_erf = op.erf(scaled(x, math.sqrt(0.5))) + 1
_composed_gelu = scaled_product(x, _erf, 0.5)
gelu = op.gelu(x) | _composed_gelu
"""x / 2 * (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""

_cube = op.pow(x, 3) | x * x * x | x * (x * x) | x * op.pow(x, 2)
_quadratic = scaled(op.pow(x, 2) | x * x, 0.044715) | scaled(x, 0.044715) * x
_inner = (
    scaled(x + scaled(_cube, 0.044715), math.sqrt(2 / math.pi))
    | scaled(x + x * _quadratic, math.sqrt(2 / math.pi))
    | scaled_product(x, _quadratic + 1, math.sqrt(2 / math.pi))
)
_composed_tanh_gelu = scaled_product(x, op.tanh(_inner) + 1, 0.5)
tanh_gelu = op.gelu(x, approximate="tanh") | _composed_tanh_gelu
"""x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""

_composed_mish = x * op.tanh(op.softplus(x))
mish = op.mish(x) | _composed_mish
"""x * tanh(softplus(x)) (Misra, arXiv 1908.08681)."""

_small = slope.where(lambda value: isinstance(value, float) and 0 <= value <= 1)
_composed_leaky_relu = op.maximum(x, op.mul(x, _small))
leaky_relu = op.leaky_relu(x, slope) | _composed_leaky_relu
"""max(x, slope * x) for a slope between 0 and 1 (Maas, Hannun and Ng, 2013)."""


@rewrite(
    _composed_hardsigmoid,
    accept=[
        Example(lambda x: torch.clamp(x + 3, 0, 6) / 6, (2, 3)),
        Example(lambda x: F.relu6(3 + x) * (1 / 6), (2, 3)),
        Example(lambda x: F.hardtanh(x + 3, 0.0, 6.0) / 6.0, (2, 3)),
        Example(lambda x: (x / 6 + 0.5).clamp(0, 1), (2, 3)),
        Example(lambda x: (0.5 + x * (1 / 6)).clamp(0, 1), (2, 3)),
        Example(lambda x: ((x + 3) / 6).clamp(0, 1), (2, 3)),
    ],
    reject=[
        Example(lambda x: torch.clamp(x + 3, 0, 6) / 5, (2, 3)),
        Example(lambda x: torch.clamp(x + 2, 0, 6) / 6, (2, 3)),
        Example(lambda x: torch.clamp(torch.add(x, 3, alpha=2), 0, 6) / 6, (2, 3)),
        Example(lambda x: torch.clamp(x + 3, 0) / 6, (2, 3)),
        Example(lambda x: (x / 5 + 0.5).clamp(0, 1), (2, 3)),
        Example(lambda x: 6 / torch.clamp(x + 3, 0, 6), (2, 3)),
    ],
)
def recognize_hardsigmoid(new: Builder, x):
    """Put one hardsigmoid for clamp(x + 3, 0, 6) / 6."""
    return new.hardsigmoid(x) if new.is_float(x) else None


@rewrite(
    _composed_hardswish,
    accept=[
        Example(lambda x: x * torch.clamp(x + 3, 0, 6) / 6, (2, 3)),
        Example(lambda x: x * (F.relu6(x + 3) / 6), (2, 3)),
        Example(lambda x: x / 6 * F.relu6(x + 3), (2, 3)),
        Example(lambda x: F.relu6(3 + x) * x * (1 / 6), (2, 3)),
        Example(lambda x: (x / 6 + 0.5).clamp(0, 1) * x, (2, 3)),
        Example(lambda x: x * F.hardsigmoid(x), (2, 3)),
    ],
    reject=[
        Example(lambda x, y: y * F.hardsigmoid(x), (2, 3), (2, 3)),
        Example(lambda x: x * F.relu6(x + 3) / 3, (2, 3)),
        Example(lambda x: (x - 1) * F.hardsigmoid(x), (2, 3)),
        Example(lambda x: [x * (s := F.hardsigmoid(x)), s], (2, 3)),
    ],
)
def recognize_hardswish(new: Builder, x):
    """Put one hardswish for x * hardsigmoid(x), however the hardsigmoid is spelled."""
    return new.hardswish(x) if new.is_float(x) else None


@rewrite(
    _composed_silu,
    accept=[
        Example(lambda x: x * torch.sigmoid(x), (2, 3)),
        Example(lambda x: torch.sigmoid(x) * x, (2, 3)),
    ],
    reject=[
        Example(lambda x: x * torch.sigmoid(1.702 * x), (2, 3)),
        Example(lambda x, y: y * torch.sigmoid(x), (2, 3), (2, 3)),
        Example(lambda x: x * torch.tanh(x), (2, 3)),
        Example(lambda x: x / torch.sigmoid(x), (2, 3)),
    ],
)
def recognize_silu(new: Builder, x):
    """Put one SiLU for x * sigmoid(x)."""
    return new.silu(x) if new.is_float(x) else None


@rewrite(
    _composed_gelu,
    accept=[
        Example(lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), (2, 3)),
        Example(lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), (2, 3)),
        Example(lambda x: x * (1 + torch.erf(x * 0.7071067811865475)) * 0.5, (2, 3)),
        Example(lambda x: x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))), (2, 3)),
        Example(lambda x: x * ((torch.erf(x / 2**0.5) + 1) / 2), (2, 3)),
        Example(lambda x: (1 + torch.erf(x / 2**0.5)) * (x / 2), (2, 3)),
    ],
    reject=[
        Example(lambda x: 0.5 * x * (1 + torch.erf(x / 1.4)), (2, 3)),
        Example(lambda x: 0.5 * x * (1 - torch.erf(x / math.sqrt(2))), (2, 3)),
        Example(lambda x: 0.5 * x * (2 + torch.erf(x / math.sqrt(2))), (2, 3)),
        Example(lambda x: x * (1 + torch.erf(x / math.sqrt(2))), (2, 3)),
        Example(lambda x, y: 0.5 * y * (1 + torch.erf(x / math.sqrt(2))), (2, 3), (2, 3)),
    ],
)
def recognize_gelu(new: Builder, x):
    """Put one GELU for x / 2 * (1 + erf(x / sqrt 2))."""
    return new.gelu(x) if new.is_float(x) else None


@rewrite(
    _composed_tanh_gelu,
    accept=[
        Example(lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))), (2, 3)),
        Example(lambda x: x * 0.5 * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))), (2, 3)),
        Example(lambda x: 0.5 * (x * (1 + torch.tanh((x + 0.044715 * x * x * x) * math.sqrt(2 / math.pi)))), (2, 3)),
        Example(lambda x: x / 2 * (torch.tanh(0.7978845608028654 * (x + (x * x * x) * 0.044715)) + 1), (2, 3)),
    ],
    reject=[
        Example(lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * torch.pow(x, 3.0)))), (2, 3)),
        Example(lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 2.0)))), (2, 3)),
        Example(lambda x: 0.5 * x * (1 + torch.sigmoid(0.7978845608 * (x + 0.044715 * x**3))), (2, 3)),
    ],
)
def recognize_tanh_gelu(new: Builder, x):
    """Put one tanh-approximated GELU for x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    return new.gelu(x, approximate="tanh") if new.is_float(x) else None


@rewrite(
    _composed_mish,
    accept=[
        Example(lambda x: x * torch.tanh(F.softplus(x)), (2, 3)),
        Example(lambda x: F.softplus(x).tanh() * x, (2, 3)),
    ],
    reject=[
        Example(lambda x: x * torch.tanh(F.softplus(x, beta=2)), (2, 3)),
        Example(lambda x: x * torch.sigmoid(F.softplus(x)), (2, 3)),
        Example(lambda x, y: y * torch.tanh(F.softplus(x)), (2, 3), (2, 3)),
    ],
)
def recognize_mish(new: Builder, x):
    """Put one Mish for x * tanh(softplus(x))."""
    return new.mish(x) if new.is_float(x) else None


@rewrite(
    _composed_leaky_relu,
    accept=[
        Example(lambda x: torch.maximum(x, 0.1 * x), (2, 3)),
        Example(lambda x: torch.max(x * 0.25, x), (2, 3)),
    ],
    reject=[
        Example(lambda x: torch.maximum(x, 1.5 * x), (2, 3)),
        Example(lambda x: torch.minimum(x, 0.1 * x), (2, 3)),
        Example(lambda x, y: torch.maximum(y, 0.1 * x), (2, 3), (2, 3)),
    ],
)
def recognize_leaky_relu(new: Builder, x, slope):
    """Put one leaky ReLU for max(x, slope * x)."""
    return new.leaky_relu(x, slope) if new.is_float(x) else None


CANONICALIZE_ACTIVATIONS = (
    recognize_hardswish,
    recognize_hardsigmoid,
    recognize_silu,
    recognize_gelu,
    recognize_tanh_gelu,
    recognize_mish,
    recognize_leaky_relu,
)
"""The rules that put one operation for a composed activation."""
