"""How forward passes that only look at values run: in which arithmetic, on which layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def takes_bfloat16(precision: Precision) -> bool:
    """Whether to run in bfloat16; ``"auto"``: where this CPU multiplies it natively (AVX512-BF16 or AMX)."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16" or (precision == "auto" and native)


def forward_in(precision: Precision) -> torch.autocast:
    """A context in which convolutions and matrix products run in `precision`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=takes_bfloat16(precision))


def channels_last(inputs: Iterable[Tensor]) -> list[Tensor]:
    """`inputs`, images with their channels last in memory, which convolutions run fastest on."""
    return [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
