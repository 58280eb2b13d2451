"""Convolutions with the batch norm and activation behind them."""

from __future__ import annotations

import torch
from torch import nn

from fxcompress.ir.signature import argument
from fxcompress.pattern import op, var
from fxcompress.patterns.activation import activated
from fxcompress.patterns.linear import fold_batch_norm_into_linear
from fxcompress.patterns.norm import fold, normed
from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import rewrite

x, w, b = var("x w b")

conv = op.conv1d(x, w, b, ...) | op.conv2d(x, w, b, ...) | op.conv3d(x, w, b, ...)
"""A convolution of 1, 2 or 3 spatial dimensions; `b` may be None."""

conv_transpose = op.conv_transpose1d(x, w, b, ...) | op.conv_transpose2d(x, w, b, ...) | op.conv_transpose3d(x, w, b, ...)
"""A transposed convolution of 1, 2 or 3 spatial dimensions; `b` may be None."""


conv_bn = normed((conv | conv_transpose).named("conv")).named("bn")
"""A convolution and its batch norm."""

conv_bn_activation = activated(conv_bn).named("activation")
"""A convolution, its batch norm and an activation."""

conv_activation = activated((conv | conv_transpose).named("conv")).named("activation")
"""A convolution and an activation."""


def _conv_bn(kind: type[nn.Module], **options) -> nn.Module:
    norm = {"1": nn.BatchNorm1d, "2": nn.BatchNorm2d, "3": nn.BatchNorm3d}[kind.__name__[-2]]
    return nn.Sequential(kind(4, 6, 3, **options), norm(6))


class _ConvSeenTwice(nn.Module):
    """The convolution's own output is used beside the batch norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.bn(y)


class _ConvCalledTwice(_ConvSeenTwice):
    """One weight serves two convolutions, of which only one has a batch norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) + self.conv(x)


@rewrite(
    normed((conv | conv_transpose).named("conv")),
    accept=[
        Example(lambda: _conv_bn(nn.Conv2d), (2, 4, 8, 8)),
        Example(lambda: _conv_bn(nn.Conv2d, groups=2, bias=False, stride=2, padding=1), (2, 4, 8, 8)),
        Example(lambda: _conv_bn(nn.Conv1d, dilation=2), (2, 4, 8)),
        Example(lambda: _conv_bn(nn.Conv3d), (2, 4, 5, 5, 5)),
        Example(lambda: _conv_bn(nn.ConvTranspose1d), (2, 4, 8)),
        Example(lambda: _conv_bn(nn.ConvTranspose2d, groups=2, stride=2, output_padding=1), (2, 4, 6, 6)),
        Example(lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False)), (2, 4, 5, 5)),
        Example(lambda: _ConvCalledTwice(), (2, 4, 6, 6)),
    ],
    reject=[
        Example(lambda: _conv_bn(nn.Conv2d), (2, 4, 8, 8), training=True),
        Example(lambda: _ConvSeenTwice(), (2, 4, 6, 6)),
        Example(lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), (2, 4, 8, 8)),
        Example(lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), (2, 4, 8, 8)),
        Example(
            lambda x, w: torch.batch_norm(
                torch.conv2d(x, w), None, None, w[:, 0, 0, 0], w[:, 0, 0, 0] ** 2, False, 0.1, 1e-5, False
            ),
            (1, 2, 4, 4),
            (3, 2, 1, 1),
        ),
    ],
)
def fold_batch_norm(new: Builder, conv, x, w, b, gamma, beta, mean, variance, eps):
    """Fold an inference batch norm into the weight and bias of the convolution before it.

    w' = w * s and b' = (b - mean) * s + beta, per output channel, where s = gamma / sqrt(variance + eps).
    The old weight stays where it is for whoever else uses it.
    """
    groups = argument(conv, "groups") if "transpose" in str(conv.target) else None
    return fold(new, conv, w, b, gamma, beta, mean, variance, eps, groups)


FOLD_BATCH_NORM = (fold_batch_norm, fold_batch_norm_into_linear)
"""The rules that fold a batch norm into the layer before it."""
