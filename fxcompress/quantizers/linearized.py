"""`FakeQuantize` in torch's own operations: slower, with the same values and gradients, and with gradients of gradients.

Between the ends of the grid and beyond them the result is taken for a linear function of what is rounded and of what the range
is learned by, whose coefficients count as constants. The gradients of `FakeQuantize` are those of this function, and its second
ones are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.autograd.forward_ad
from torch import Tensor

from fxcompress.ir.estimators import with_gradients_of


@dataclass(frozen=True)
class Grid:
    """A grid, and what its range is learned by; see `FakeQuantize`."""

    scale: Tensor
    zero_point: Tensor | None
    low: Tensor | None
    extent: Tensor | None
    levels: tuple[int, int]
    multiplier: float


def is_transformed() -> bool:
    """Whether torch runs one of its transformations of functions, which cannot see into a kernel of ours.

    `torch.func` (grad, vmap, jvp, ...), forward-mode gradients, `torch.export`, whose graph has to have the gradients, or
    `torch.jit.trace`, which would not see what a kernel writes.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()
    )


def fake_quantize(x: Tensor, grid: Grid, bound: float) -> Tensor:
    """What `FakeQuantize` gives of `x`; `bound` is how far beyond an end, in steps, a value counts as between them."""
    value, inside, of_extent = _coefficients(x.detach(), grid, bound)
    estimate = torch.where(inside, x, 0.0)
    if grid.low is not None:
        estimate = estimate + torch.where(inside, 0.0, grid.low * grid.multiplier)
    if grid.extent is not None:
        estimate = estimate + of_extent * (grid.extent * grid.multiplier)
    return with_gradients_of(value, estimate)


def gradients(gradient: Tensor, x: Tensor, grid: Grid, bound: float) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of `x`, `low` and `extent`, through which gradients reach `gradient`."""
    _, inside, of_extent = _coefficients(x.detach(), grid, bound)
    to_x = torch.where(inside, gradient, 0.0)
    if grid.extent is None:
        return to_x, None, None
    to_extent = (gradient * of_extent).sum_to_size(grid.extent.shape) * grid.multiplier
    if grid.low is None:
        return to_x, None, to_extent
    return to_x, torch.where(inside, 0.0, gradient).sum_to_size(grid.low.shape) * grid.multiplier, to_extent


@torch.no_grad()
def _coefficients(x: Tensor, grid: Grid, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x` on the grid, where it is between its ends, and the derivative by `extent`."""
    lowest, highest = grid.levels
    scale, point = grid.scale.detach(), 0.0 if grid.zero_point is None else grid.zero_point.detach()
    bottom, top = lowest - point, highest - point
    level = x / scale
    steps = torch.maximum(level.round(), torch.as_tensor(bottom)).minimum(torch.as_tensor(top))
    inside = ~((level <= bottom - bound) | (level >= top + bound))
    if grid.extent is None:
        return steps * scale, inside, torch.zeros_like(steps)
    ends = steps * ((highest - lowest) / highest) if grid.low is None else steps - bottom
    share = torch.where(inside, steps - level, ends) / (highest - lowest)
    return steps * scale, inside, share * grid.extent.detach().sign()
