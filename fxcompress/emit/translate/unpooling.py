"""Indices of max pooling, which ONNX counts over the whole tensor and torch over each channel, and pooling undone by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.shapes import Size
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten


@translation(aten.max_unpool2d.default, aten.max_unpool3d.default)
def max_unpool(emit: Emitter, x: ir.Value, indices: ir.Value, output_size: Sequence[Size], *_: Any) -> ir.Value:
    """Values put where their indices say, zeros everywhere else."""
    spatial = len(output_size)
    lead = list(emit.shape(x)[:-spatial])
    area: Size = 1
    for size in output_size:
        area = area * size
    flat, places = (emit.reshape(v, emit.shape(v), [*lead, -1]) for v in (x, indices))
    empty = emit.Expand(emit.constant(torch.zeros((), dtype=emit.dtype(x))), [*lead, area])
    filled = emit.ScatterElements(empty, places, flat, axis=len(lead))
    return emit.reshape(filled, [*lead, area], [*lead, *output_size])
