"""Idle dropouts are traced as values of their own: torch returns their input, which later calls then read behind them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from fxcompress.capture.traced_kernels import traced_by

aten = torch.ops.aten

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default)


def distinct_dropouts() -> AbstractContextManager[None]:
    """In this context, the result of a dropout of fake tensors is never its input."""
    return traced_by(dict.fromkeys(_DROPOUTS, _dropped))


def _dropped(x: Tensor, p: float, train: bool) -> Tensor:
    return torch.empty_like(x)
