"""`nn.CrossMapLRN2d` is traced as operations on whole tensors: torch's own form fills a buffer channel by channel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import CrossMapLRN2d

from fxcompress.capture.replaced import replaced


@contextlib.contextmanager
def cross_map_norms_as_operations() -> Iterator[None]:
    """In this context, the layer calls what computes the same values, and has their gradient."""
    with replaced({(CrossMapLRN2d, "apply"): staticmethod(_normalized)}):
        yield


def _normalized(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> Tensor:
    """``x * (k + alpha / size * energy) ** -beta``, of ``[batch, channels, height, width]``.

    The energy is that of the `reach` channels from each one on, both ways. As torch adds it up, the first channel's is
    never taken out again.
    """
    channels, reach = x.shape[1], int((size - 1) / 2 + 1)
    square, window = x * x, 2 * reach - 1
    padded = F.pad(square.unsqueeze(1), (0, 0, 0, 0, reach - 1, reach - 1))
    energy = F.avg_pool3d(padded, (window, 1, 1), stride=1).squeeze(1) * window
    if channels > reach:
        behind = square[:, :1].expand(-1, channels - reach, -1, -1)
        energy = energy + F.pad(behind, (0, 0, 0, 0, reach, 0))
    return x * (energy * (alpha / size) + k).pow(-beta)
