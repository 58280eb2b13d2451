"""Non-maximum suppression, which both runtimes have."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation
from fxcompress.ir import suppression_ops  # noqa: F401  # defines the operation


@translation(torch.ops.fxcompress.suppress.default)
def suppress(emit: Emitter, boxes: ir.Value, scores: ir.Value, threshold: float) -> ir.Value:
    """As of one image and one class, of which all boxes may stay."""
    if threshold >= 1:  # nothing is suppressed
        return emit.TopK(scores, emit.Shape(scores), outputs=2, axis=0)[1]
    if threshold < 0:
        emit.unsupported(f"ONNX allows overlaps of 0 to 1, not {threshold}")
    one_image, one_class = emit.Unsqueeze(boxes, [0]), emit.Unsqueeze(scores, [0, 1])
    allowed = np.float32(threshold)
    if allowed > threshold:  # an overlap in single precision is compared with a number in double
        allowed = np.nextafter(allowed, np.float32(-np.inf))
    kept = emit.NonMaxSuppression(one_image, one_class, emit.Shape(scores), torch.from_numpy(np.array([allowed])))
    kept.dtype = ir.DataType.INT64
    return emit.Squeeze(emit.Slice(kept, [2], [3], [1]), [1])
