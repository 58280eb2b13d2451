"""mmcv without its compiled operators, which take a quarter of an hour to build: those that detectors call, in Python."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import Tensor

from benchmarks.models import import_torchvision

_NAME = "mmcv._ext"


class _Operators(ModuleType):
    """What mmcv looks for in its extension: suppression of boxes; any other is there, and says when it is called."""

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        """The places of the boxes that no better one overlaps; `offset` 1 where a box holds its last pixel."""
        corners = boxes.clone()
        corners[:, 2:] += offset
        return import_torchvision().ops.nms(corners, scores, iou_threshold)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"{name} of mmcv is not built here")

        return missing


def declare() -> None:
    """Let mmcv be imported where its extension was not built."""
    if _NAME not in sys.modules:
        operators = _Operators(_NAME)
        operators.__spec__ = ModuleSpec(_NAME, None)  # MMEngine asks for it to see whether all was built
        sys.modules[_NAME] = operators
