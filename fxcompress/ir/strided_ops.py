"""Values taken by their places one after the other: what ATen has for places in memory, which graphs do not tell of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("fxcompress", "FRAGMENT")
_LIBRARY.define("strided(Tensor input, SymInt[] size, SymInt[] stride, SymInt offset) -> Tensor")


def _strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> Tensor:
    """A tensor of `size` that has at each index the value number ``offset + sum(index * stride)`` of `x`.

    It is `torch.as_strided` of a contiguous tensor, however `x` lies in memory; made of ATen calls, as those of
    `fxcompress.ir.training_ops`.
    """
    laid_out = x.reshape(-1).contiguous()
    return laid_out.as_strided(size, stride, laid_out.storage_offset() + offset)


_LIBRARY.impl("strided", _strided, "CompositeImplicitAutograd")

STRIDED = torch.ops.fxcompress.strided.default
