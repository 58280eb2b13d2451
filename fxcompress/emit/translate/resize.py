"""Interpolation and sampling on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


def _resize(emit: Emitter, x: ir.Value, scales: Sequence[float] | None, **how: Any) -> ir.Value:
    """Resize the spatial dimensions to those of the result, by `scales` where the caller gave scales.

    torch computes positions from the scales it was given, not from the sizes they lead to.
    """
    if scales and all(scale is not None for scale in scales):
        factors = torch.tensor([1.0, 1.0, *map(float, scales)])
        return emit.Resize(x, None, factors, **how)
    return emit.Resize(x, None, None, list(emit.result.shape), **how)


@translation(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def nearest(emit: Emitter, x: ir.Value, output_size: Any, scale_factors: Any = None) -> ir.Value:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resize(emit, x, scale_factors, **how)


@translation(aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec)
def nearest_exact(emit: Emitter, x: ir.Value, output_size: Any, scale_factors: Any = None) -> ir.Value:
    how = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    return _resize(emit, x, scale_factors, **how)


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "half_pixel"


@translation(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)
def linear(emit: Emitter, x: ir.Value, output_size: Any, align_corners: bool, scale_factors: Any = None) -> ir.Value:
    mode = _coordinates(align_corners)
    return _resize(emit, x, scale_factors, mode="linear", coordinate_transformation_mode=mode)


@translation(aten.upsample_bicubic2d.vec)
def cubic(emit: Emitter, x: ir.Value, output_size: Any, align_corners: bool, scale_factors: Any = None) -> ir.Value:
    mode = _coordinates(align_corners)
    return _resize(emit, x, scale_factors, mode="cubic", coordinate_transformation_mode=mode, cubic_coeff_a=-0.75)


@translation(aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec)
def antialiased(emit: Emitter, x: ir.Value, output_size: Any, align_corners: bool, scale_factors: Any = None) -> ir.Value:
    """A matrix product along each axis, of what torch makes of the unit vectors: OpenVINO reads no antialias in Resize."""
    rows, columns = (_antialiasing(emit, x, axis, align_corners, scale_factors) for axis in (-2, -1))
    return emit.MatMul(emit.MatMul(rows, x), columns.t().contiguous())


def _antialiasing(emit: Emitter, x: ir.Value, axis: int, align_corners: bool, scale_factors: Any) -> torch.Tensor:
    """The matrix that resizes `axis` of `x`, of shape (new size, old size)."""
    (size,) = emit.static(x, axis)
    new = [int(emit.result.shape[axis]), size] if scale_factors is None else None
    scales = None if scale_factors is None else [float(scale_factors[axis]), 1.0]
    unit = torch.eye(size)[None, None]
    resized: torch.Tensor = emit.node.target(unit, new, align_corners, scales)  # type: ignore[operator, misc]
    return resized[0, 0].to(emit.result.dtype)


@translation(aten.grid_sampler.default, aten.grid_sampler_2d.default)
def grid_sampler(
    emit: Emitter, x: ir.Value, grid: ir.Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> ir.Value:
    return emit.GridSample(
        x,
        grid,
        mode=("linear", "nearest", "cubic")[interpolation_mode],
        padding_mode=("zeros", "border", "reflection")[padding_mode],
        align_corners=int(align_corners),
    )
