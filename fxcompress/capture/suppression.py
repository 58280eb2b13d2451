"""torchvision's post-processing of boxes, which looks at how many there are, traced for any number of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fxcompress.capture.replaced import replaced
from fxcompress.ir.suppression_ops import suppress


@contextlib.contextmanager
def suppression_of_any_number() -> Iterator[None]:
    """In this context torchvision's functions, whatever modules hold them, compute the same and ask for no number of boxes."""
    boxes, utils = (sys.modules.get(f"torchvision.{name}") for name in ("ops.boxes", "models.detection._utils"))
    owners = (boxes, "nms", _nms), (boxes, "batched_nms", _batched_nms), (utils, "_topk_min", _topk_min)
    ours = {id(original): ours for owner, name, ours in owners if (original := getattr(owner, name, None)) is not None}
    modules = [*sys.modules.values()] if ours else []  # one may be None, or anything that a package put there
    attributes = {
        (holder, name): ours[id(held[name])]
        for holder in modules
        if isinstance(held := getattr(holder, "__dict__", None), dict)
        for _, name, _ in owners
        if id(held.get(name)) in ours
    }
    with replaced(attributes):
        yield


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return suppress(boxes, scores, iou_threshold)


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Each class lies beside the others, out of the reach of their boxes (and there may be no boxes)."""
    ends = torch.cat([boxes.flatten(), boxes.new_zeros(1)])
    width = ends.max() - ends.min() + 1
    return suppress(boxes + (idxs.to(boxes) * width)[:, None], scores, iou_threshold)


def _topk_min(input: Tensor, orig_kval: int, axis: int) -> Any:
    return torch.sym_min(orig_kval, input.size(axis))
