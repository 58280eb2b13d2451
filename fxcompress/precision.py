"""The arithmetic of forward passes that only look at values."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def takes_bfloat16(precision: Precision) -> bool:
    """Whether to run in bfloat16; ``"auto"``: where this CPU multiplies it natively (AVX512-BF16 or AMX)."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16" or (precision == "auto" and native)


def forward_in(precision: Precision) -> torch.autocast:
    """A context in which convolutions and matrix products run in `precision`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=takes_bfloat16(precision))
