"""What joins the branches of a network: residual sums and squeeze-and-excitation gates."""

from __future__ import annotations

from fxcompress.pattern import op, var
from fxcompress.patterns.activation import activated
from fxcompress.patterns.conv import conv, normed

x, y = var("x y")

residual_sum = op.add(x, y)
"""The sum of two branches, alpha 1 (He et al., arXiv 1512.03385, equation 1)."""

residual_activation = activated(residual_sum.named("sum")).named("activation")
"""The sum of two branches and an activation."""

add_relu = op.relu(residual_sum.named("sum"))
"""The sum of two branches and a ReLU."""

conv_add_activation = activated(op.add(conv.named("conv") | normed(conv.named("conv")), y).named("sum")).named("activation")
"""A convolution, with or without its batch norm, added to another branch `y`, and an activation."""

_w1, _b1, _w2, _b2 = var("w1 b1 w2 b2")
_pooled = op.mean(x, [2, 3], True) | op.mean(x, [-1, -2], True) | op.adaptive_avg_pool2d(x, [1, 1])
_squeezed = activated(op.conv2d(_pooled.named("pooled"), _w1, _b1).named("squeeze"))
_excited = op.conv2d(_squeezed, _w2, _b2).named("excite")
_gate = op.sigmoid(_excited) | op.hardsigmoid(_excited)

squeeze_excite = op.mul(x, _gate.named("gate"))
"""x times a gate per channel: 1x1 convolutions of its mean over the image (Hu et al., arXiv 1709.01507, section 3)."""
