"""What a module with parameters computes while it is switched off."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Bypass(torch.autograd.Function):
    """The first input; the others get no gradient, but their place in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, *[None] * ctx.count


def bypass(module: nn.Module, x: Tensor) -> Tensor:
    """`x` as it is, computed such that the parameters of `module` take part in the backward pass.

    `DistributedDataParallel` waits for every parameter in every backward pass, for those that take no part in it in vain:
    without this it would have to look for them each time, ``find_unused_parameters=True``.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return _Bypass.apply(x, *trained) if trained and torch.is_grad_enabled() else x
