"""What rounds and computes its gradients in one pass over memory: C on CPUs, Triton on GPUs; nothing on other devices.

Where there is no kernel, torch's operations compute the same (`straight_through`), and under ``torch.compile`` those are what
its compiler fuses.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from fxcompress.errors import warn_user
from fxcompress.quantizers import native


class Kernel(Protocol):
    """Rounding to a grid, and its gradients; see `FakeQuantize` for what they are."""

    def takes(self, x: Tensor, scale: Tensor) -> bool:
        """Whether the functions can be called with these, and a zero point as `scale` is."""

    def forward(
        self,
        x: Tensor,
        result: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        within: tuple[float, float],
    ) -> None:
        """Write to `result`, laid out as `x` is, what `x`, clamped to `within`, is on the grid."""

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        slack: float,
        symmetric: bool,
        within: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of `x`, and of what the lower end and the extent of the range are learned by."""


def kernel_for(x: Tensor, scale: Tensor, zero_point: Tensor | None, *, training: bool = False) -> Kernel | None:
    """The kernel of the device that `x` is on, if there is one and it takes such tensors.

    The first call in training makes the one in C: it takes a second, which a few forward passes do not.
    """
    if torch.compiler.is_compiling() or not x.numel():
        return None
    if training and x.device.type == "cpu":
        native.load()
    kernel = _on(x.device.type)
    if kernel is None or not all(_is_plain(one, scale, x) for one in (scale, zero_point) if one is not None):
        return None
    return kernel if kernel.takes(x, scale) and not x.is_neg() else None


def _is_plain(one: Tensor, scale: Tensor, x: Tensor) -> bool:
    """Whether `one`, of a grid, lies in memory as kernels read it: number after number, beside `x`."""
    plain = one.dtype == torch.float32 and one.is_contiguous() and not one.is_neg()  # torch negates views where it reads them
    return plain and one.device == x.device and one.shape == scale.shape


def _on(device: str) -> Kernel | None:
    if device == "cpu":
        return native.loaded
    return _in_triton() if device == "cuda" else None


@cache
def _in_triton() -> Kernel | None:
    """Triton comes with torch's builds for GPUs.

    Warns:
        RuntimeWarning: it is there and does not load. All then runs in torch's operations.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from fxcompress.quantizers.triton_kernels import TritonKernel
    except Exception as error:  # of a foreign library, whatever it may be
        warn_user(f"quantizers train without their GPU kernel, more slowly: {error}", RuntimeWarning)
        return None
    return TritonKernel()
