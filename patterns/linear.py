"""Linear layers with the batch norm and activation behind them."""

from __future__ import annotations

from torch import nn

from fxcompress.pattern import op, var
from fxcompress.patterns.activation import activated
from fxcompress.patterns.norm import fold, normed
from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import rewrite

x, w, b = var("x w b")

linear = op.linear(x, w, b)
"""A linear layer, x @ w.T + b; `b` may be None."""

linear_bn = normed(linear.named("linear")).named("bn")
"""A linear layer and its batch norm, which is over the same dimension only if the value has 2 dimensions."""

linear_activation = activated(linear.named("linear")).named("activation")
"""A linear layer and an activation."""

linear_bn_activation = activated(linear_bn).named("activation")
"""A linear layer, its batch norm and an activation."""


@rewrite(
    linear_bn,
    accept=[
        Example(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4)),
        Example(lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False, eps=0.1)), (3, 4)),
    ],
    reject=[
        Example(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4), training=True),
        Example(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 6, 4)),
        Example(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6)), (3, 4)),
    ],
)
def fold_batch_norm_into_linear(new: Builder, linear, w, b, gamma, beta, mean, variance, eps):
    """Fold an inference batch norm into the weight and bias of the linear layer before it.

    w' = s * w and b' = (b - mean) * s + beta, per output, where s = gamma / sqrt(variance + eps).
    """
    return fold(new, linear, w, b, gamma, beta, mean, variance, eps) if len(new.shape(linear)) == 2 else None
