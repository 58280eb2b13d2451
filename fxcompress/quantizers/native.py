"""A kernel for `FakeQuantize` on CPUs, compiled on demand where there is a C compiler; without one, all runs in torch.

It reads and writes each tensor once, where torch's operations go over it a dozen times.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fxcompress.errors import InputError, warn_user
from fxcompress.quantizers.compilation import CompilationError, load_library

SOURCE = Path(__file__).with_name("fake_quantize.c")
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]

_POINTER, _SIZE, _REAL, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_FORWARD = [_POINTER] * 2 + [_SIZE] * 2 + [_POINTER] * 2 + [_REAL] * 2 + [_INT]
_BACKWARD = [_POINTER] * 3 + [_SIZE] * 2 + [_POINTER] * 2 + [_REAL] * 3 + [_INT] + [_POINTER] * 2 + [_INT]


class Kernel:
    """The functions of `SOURCE`, for tensors that `kernel_for` accepts."""

    def __init__(self, library: ctypes.CDLL):
        self._forward, self._backward = library.forward, library.backward
        self._forward.argtypes, self._forward.restype = _FORWARD, None
        self._backward.argtypes, self._backward.restype = _BACKWARD, ctypes.c_int

    def forward(self, x: Tensor, result: Tensor, scale: Tensor, zero_point: Tensor | None, levels: tuple[int, int]) -> None:
        rows = scale.numel()
        self._forward(
            x.data_ptr(),
            result.data_ptr(),
            rows,
            x.numel() // rows,
            scale.data_ptr(),
            None if zero_point is None else zero_point.data_ptr(),
            *levels,
            torch.get_num_threads(),
        )

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        slack: float,
        symmetric: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of `x`, and of what the lower end and the extent of the range are learned by."""
        rows, inside = scale.numel(), torch.empty_like(x)
        of_low, of_extent = torch.empty_like(scale), torch.empty_like(scale)
        failed = self._backward(
            gradient.data_ptr(),
            x.data_ptr(),
            inside.data_ptr(),
            rows,
            x.numel() // rows,
            scale.data_ptr(),
            None if zero_point is None else zero_point.data_ptr(),
            *levels,
            slack,
            symmetric,
            of_low.data_ptr(),
            of_extent.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the gradients of a quantizer")
        return inside, of_low, of_extent


loaded: Kernel | None = None


@cache
def load() -> Kernel | None:
    """Take the kernel, once a process, for `FakeQuantize` to use from then on; None where that cannot be done.

    Warns:
        RuntimeWarning: there is a compiler and it fails, or what it makes does not load. All then runs in torch.
    """
    global loaded
    # torch's own OpenMP library, if it brought one: the threads of a second one would be in the way of the first's
    threads = [*map(str, sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))), "-fopenmp"][0]
    try:
        library = load_library(SOURCE, FLAGS, [threads, "-lm"])
        loaded = None if library is None else Kernel(library)
    except (CompilationError, InputError, AttributeError) as error:
        warn_user(f"quantizers train without their C kernel, more slowly: {error}", RuntimeWarning)
    return loaded


def kernel_for(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Kernel | None:
    """The kernel, if it is there, and `x` can be seen as rows, each with its scale and zero point."""
    if loaded is None or torch.compiler.is_compiling() or not x.numel():
        return None
    grid = [scale] if zero_point is None else [scale, zero_point]
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in (x, *grid)):
        return None
    if any(tensor.shape != scale.shape or not tensor.is_contiguous() for tensor in grid):
        return None
    rows = x.is_contiguous() and x.dim() > 0 and scale.numel() == len(scale) == len(x) if scale.dim() else is_dense(x)
    return loaded if rows else None


def is_dense(x: Tensor) -> bool:
    """Whether the elements of `x` fill a stretch of memory, in whatever order."""
    return x.is_contiguous() or x.permute(by_stride(x)).is_contiguous()


def by_stride(x: Tensor) -> list[int]:
    """The dimensions of `x`, that with the largest stride first."""
    return sorted(range(x.dim()), key=x.stride, reverse=True)
