"""Operations of training that ATen has no name for: stochastic depth, gradients that stop, batch norms over all processes.

They are made of ATen calls, so gradients, `torch.compile` and `torch.func` see through them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

_LIBRARY = torch.library.Library("fxcompress", "FRAGMENT")
_LIBRARY.define(
    "drop_path(Tensor input, float p, int[] dims, float scale, bool train=False) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)
_LIBRARY.define("stop_gradient(Tensor input, bool train=False) -> Tensor")
_ARGUMENTS = (
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
    "float momentum, float eps, bool cudnn_enabled) -> Tensor"
)
_LIBRARY.define(f"sync_batch_norm{_ARGUMENTS}")
_LIBRARY.define(f"masked_batch_norm{_ARGUMENTS}")


def _drop_path(x: Tensor, p: float, dims: list[int], scale: float, train: bool = False) -> Tensor:
    """`x` with slices of it put to zero in training, each with probability `p`, and the others times `scale`.

    A slice is what has the same indices along `dims`: ``[0]`` for samples (stochastic depth by rows), ``[]`` for all of `x`.

    Source: Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.
    """
    if not train:
        return x
    shape = [size if dim in dims else 1 for dim, size in enumerate(x.shape)]
    return x * (torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - p) * scale)


def _stop_gradient(x: Tensor, train: bool = False) -> Tensor:
    """`x`, which in training lets no gradient pass to what it was computed from."""
    return x.detach() if train else x


def _sync_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`masked_batch_norm` over the samples of all processes of the default group; with one process, that itself."""
    alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
    if not training or alone:
        return _masked_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    others = [dim for dim in range(x.dim()) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    wide = x.float()
    sums = all_reduce(torch.cat([wide.sum(others), wide.new_tensor([x.numel() / x.shape[1]])]))
    count, mean = sums[-1], sums[:-1] / sums[-1]
    centred = wide - mean.view(shape)
    variance = all_reduce(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            moving = momentum * ~_without_output(weight, bias)
            running_mean.lerp_(mean.to(running_mean.dtype), moving.to(running_mean.dtype))
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), moving.to(running_var.dtype))
    result = centred * torch.rsqrt(variance + eps).view(shape)
    result = result if weight is None else result * weight.view(shape)
    return (result if bias is None else result + bias.view(shape)).to(x.dtype)


def _masked_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`batch_norm`, which leaves the statistics of channels alone whose weight and bias are zero.

    They put out zeros whatever they read. Where a mask made them so, the layer in front puts out zeros as well, and their
    statistics would be of no use to the channel once it is unmasked.
    """
    if not training or weight is None or running_mean is None or running_var is None:
        return torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    moved = running_mean.clone(), running_var.clone()
    result = torch.batch_norm(x, weight, bias, *moved, training, momentum, eps, cudnn_enabled)
    with torch.no_grad():
        silent = _without_output(weight, bias)
        for running, new in zip((running_mean, running_var), moved):
            running.copy_(torch.where(silent, running, new))
    return result


def _without_output(weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The channels whose weight and bias are zero; none without a weight."""
    if weight is None:
        return torch.zeros((), dtype=torch.bool)
    return weight == 0 if bias is None else (weight == 0) & (bias == 0)


_LIBRARY.impl("drop_path", _drop_path, "CompositeImplicitAutograd")
_LIBRARY.impl("stop_gradient", _stop_gradient, "CompositeImplicitAutograd")
_LIBRARY.impl("sync_batch_norm", _sync_batch_norm, "CompositeImplicitAutograd")
_LIBRARY.impl("masked_batch_norm", _masked_batch_norm, "CompositeImplicitAutograd")

DROP_PATH = torch.ops.fxcompress.drop_path.default
STOP_GRADIENT = torch.ops.fxcompress.stop_gradient.default
SYNC_BATCH_NORM = torch.ops.fxcompress.sync_batch_norm.default
MASKED_BATCH_NORM = torch.ops.fxcompress.masked_batch_norm.default
