"""A kernel for `FakeQuantize` on CPUs in C, compiled on demand where there is a compiler; without one, all runs in torch.

It reads and writes each tensor once, where torch's operations go over it a dozen times.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fxcompress.errors import InputError, warn_user
from fxcompress.quantizers.compilation import CompilationError, load_library
from fxcompress.quantizers.layout import is_dense

SOURCE = Path(__file__).with_name("fake_quantize.c")
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]

TYPES = {torch.float32: "float", torch.bfloat16: "bfloat16"}
"""What is rounded, and how the functions for it are named."""

_POINTER, _SIZE, _REAL, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_FORWARD = [_POINTER] * 2 + [_SIZE] * 2 + [_POINTER] * 2 + [_REAL] * 4 + [_INT]
_GRID = [_POINTER] * 2 + [_SIZE] + [_REAL] * 3 + [_POINTER] * 2
_BACKWARD = [_POINTER] * 3 + [_SIZE] * 2 + [_POINTER] * 2 + [_REAL] * 3 + [_INT] + [_REAL] * 2 + [_POINTER] * 2 + [_INT]


class CKernel:
    """The functions of `SOURCE`, for tensors of `TYPES` that can be seen as rows, each with its scale and zero point."""

    def __init__(self, library: ctypes.CDLL):
        self._forward = {dtype: library[f"forward_{name}"] for dtype, name in TYPES.items()}
        self._backward = {dtype: library[f"backward_{name}"] for dtype, name in TYPES.items()}
        self._grid = library.grid
        self._grid.argtypes, self._grid.restype = _GRID, None
        for functions, arguments, result in ((self._forward, _FORWARD, None), (self._backward, _BACKWARD, ctypes.c_int)):
            for function in functions.values():
                function.argtypes, function.restype = arguments, result

    def takes(self, x: Tensor, scale: Tensor) -> bool:
        """Whether the functions can be called with these, and a zero point as `scale` is."""
        if x.dtype not in TYPES:
            return False
        return x.is_contiguous() and x.dim() > 0 and scale.numel() == len(scale) == len(x) if scale.dim() else is_dense(x)

    def grid(
        self, low: Tensor | None, extent: Tensor, levels: tuple[int, int], tiny: float
    ) -> tuple[Tensor, Tensor | None] | None:
        """Scale and zero point, None for one of 0, as `fxcompress.quantizers.trainable.grid_of` has them; None for others."""
        given = [extent] if low is None else [extent, low]
        if not all(map(holds_floats, given)):
            return None
        scale, point = torch.empty_like(extent), None if low is None else torch.empty_like(extent)
        ends = [None if one is None else one.data_ptr() for one in (low, extent)]
        made = [None if one is None else one.data_ptr() for one in (scale, point)]
        self._grid(*ends, extent.numel(), *levels, tiny, *made)
        return scale, point

    def forward(
        self,
        x: Tensor,
        result: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        levels: tuple[int, int],
        within: tuple[float, float],
    ) -> None:
        rows = scale.numel()
        self._forward[x.dtype](
            x.data_ptr(),
            result.data_ptr(),
            rows,
            x.numel() // rows,
            scale.data_ptr(),
            None if zero_point is None else zero_point.data_ptr(),
            *levels,
            *within,
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
        within: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of `x`, and of what the lower end and the extent of the range are learned by."""
        rows, inside = scale.numel(), torch.empty_like(x)
        of_low, of_extent = torch.empty_like(scale), torch.empty_like(scale)
        failed = self._backward[x.dtype](
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
            *within,
            of_low.data_ptr(),
            of_extent.data_ptr(),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for the gradients of a quantizer")
        return inside, of_low, of_extent


def holds_floats(one: Tensor) -> bool:
    """Whether `one` is so many float32 in a row in this process's memory, and no part, stand-in or view of what is computed."""
    plain = type(one) in (Tensor, torch.nn.Parameter) and one.dtype is torch.float32 and one.device.type == "cpu"
    return plain and one.is_contiguous() and not one.is_neg()


Functions = TypeVar("Functions")


def compiled(source: Path, take: Callable[[ctypes.CDLL], Functions], what: str) -> Functions | None:
    """What `take` finds in the library of `source`; None without a compiler, or where that cannot be done.

    Warns:
        RuntimeWarning: there is a compiler and it fails, or what it makes does not load. `what` is done without it then.
    """
    # torch's own OpenMP library, if it brought one: the threads of a second one would be in the way of the first's
    threads = [*map(str, sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))), "-fopenmp"][0]
    try:
        library = load_library(source, FLAGS, [threads, "-lm"])
        return None if library is None else take(library)
    except (CompilationError, InputError, AttributeError) as error:
        warn_user(f"{what} without their C kernel, more slowly: {error}", RuntimeWarning)
        return None


loaded: CKernel | None = None


@cache
def load() -> CKernel | None:
    """Take the kernel, once a process, for `FakeQuantize` to use from then on; None where that cannot be done."""
    global loaded
    loaded = compiled(SOURCE, CKernel, "quantizers train")
    return loaded
