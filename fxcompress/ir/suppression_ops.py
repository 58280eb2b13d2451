"""Non-maximum suppression, which ATen has no name for."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("fxcompress::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The boxes that no better one overlaps by more than `threshold`, in the order of their scores.

    Args:
        boxes: (count, 4), of two opposite corners, the lower coordinates first.
        scores: (count,); of two equal ones the earlier box is the better.
        threshold: of the intersection over the union.

    Returns:
        (kept,) indices of boxes, int64. Source: ONNX, NonMaxSuppression-11.
    """
    order = scores.argsort(descending=True, stable=True)
    low, high = boxes[order].double().split(2, dim=1)
    areas = (high - low).clamp(min=0).prod(1)
    waiting, kept = torch.ones(len(order), dtype=torch.bool), []
    for best in range(len(order)):
        if not waiting[best]:
            continue
        kept.append(best)
        rest = slice(best + 1, None)
        both = (torch.minimum(high[best], high[rest]) - torch.maximum(low[best], low[rest])).clamp(min=0).prod(1)
        waiting[rest] &= ~(both > threshold * (areas[best] + areas[rest] - both))
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    torch._check(boxes.dim() == 2 and scores.dim() == 1, lambda: "boxes are (count, 4) and scores (count,)")
    torch._check(boxes.shape[1] == 4, lambda: f"boxes have 4 coordinates, not {boxes.shape[1]}")
    torch._check(boxes.shape[0] == scores.shape[0], lambda: "there is one score for each box")
    return scores.new_empty([torch.library.get_ctx().new_dynamic_size()], dtype=torch.int64)
