"""How tensors lie in memory, for kernels that go over it without regard to shapes."""

from __future__ import annotations

import math

from torch import Tensor


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` fill a stretch of memory, in whatever order."""
    return x.is_contiguous() or x.permute(by_stride(x)).is_contiguous()


def by_stride(x: Tensor) -> list[int]:
    """The dimensions of `x`, that with the largest stride first."""
    return sorted(range(x.dim()), key=x.stride, reverse=True)


def around_scales(x: Tensor, scale: Tensor) -> tuple[int, int, int] | None:
    """Elements outside, along and inside of the one axis of the dense `x` that `scale` broadcasts along, as memory has them.

    ``(1, 1, elements)`` for one scale; None where several axes have scales of their own.
    """
    if scale.numel() == 1:
        return 1, 1, x.numel()
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if scale.dim() != x.dim() or len(axes) != 1 or scale.numel() != x.shape[axes[0]]:
        return None
    order = by_stride(x)
    inside = math.prod(x.shape[axis] for axis in order[order.index(axes[0]) + 1 :])
    return x.numel() // (inside * scale.numel()), scale.numel(), inside
