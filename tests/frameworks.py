"""Frameworks that may be missing, for tests that are skipped without them."""

import importlib.util

import pytest
import torch


def framework(name):
    """The module of the framework `name`; skips the tests of the module that asks where it is not installed."""
    _declare_torchvision_operators()
    return pytest.importorskip(name)


def _declare_torchvision_operators():
    """Some builds of torchvision come without their operators, and are not imported without them."""
    if importlib.util.find_spec("torchvision") is None or hasattr(torch.ops.torchvision, "nms"):
        return
    global _library
    _library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
