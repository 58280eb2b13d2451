"""torchvision's detectors and segmenters, in the plain loop of its references, on images of several sizes."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fxcompress
from benchmarks.integrations.rows import Case
from benchmarks.models import import_torchvision
from fxcompress import passes

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
_TRAINED_ON, _CALIBRATED_ON = ((96, 128), (128, 96), (100, 131)), ((96, 128), (128, 128))


def cases() -> Iterator[Case]:
    """Detectors train and predict; segmenters train in whole, in another size than they were calibrated with."""
    vision = import_torchvision()
    small: dict[str, Any] = {"weights": None, "weights_backbone": None}
    sized = small | {"min_size": 96, "max_size": 160}
    detection, segmentation = vision.models.detection, vision.models.segmentation
    for name, build in {
        "SSDLite320, MobileNetV3": partial(detection.ssdlite320_mobilenet_v3_large, num_classes=4, **small),
        "RetinaNet, ResNet-50 FPN": partial(detection.retinanet_resnet50_fpn, num_classes=4, **sized),
        "Faster R-CNN, MobileNetV3 FPN": partial(
            detection.fasterrcnn_mobilenet_v3_large_fpn, num_classes=4, **sized, box_detections_per_img=10
        ),
        "FCOS, ResNet-50 FPN": partial(detection.fcos_resnet50_fpn, num_classes=4, **sized),
    }.items():
        yield f"{name}: train on mixed sizes, predict, write", 2, partial(_detector, build)
    for name, build in {
        "DeepLabV3, MobileNetV3": partial(segmentation.deeplabv3_mobilenet_v3_large, num_classes=4, **small),
        "LR-ASPP, MobileNetV3": partial(segmentation.lraspp_mobilenet_v3_large, num_classes=4, **small),
        "DeepLabV3 with its second head": partial(
            segmentation.deeplabv3_mobilenet_v3_large, num_classes=4, aux_loss=True, **small
        ),
    }.items():
        yield f"{name}: train on another size, write", 2, partial(_segmenter, build)


def _scenes(sizes: Any, seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for height, width in sizes:
        images = [torch.rand(3, height, width, generator=generator), torch.rand(3, height - 7, width - 5, generator=generator)]
        boxes = torch.tensor([[5.0, 6.0, 45.0, 60.0], [20.0, 10.0, 70.0, 50.0]])
        batches.append((images, [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in images]))
    return batches


@torch.no_grad()
def _settled(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """`model`, whose weights are random, with the statistics of `batches`, without which ranges would be of nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean of all batches
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()
    return model


def _stack() -> list[Any]:
    return [passes.Sparsify(level=0.5), *fxcompress.defaults.training()]


def _detector(build: Callable[[], nn.Module]) -> str:
    torch.manual_seed(0)
    model = build().eval()
    _settled(model, (images for images, _ in _scenes(_CALIBRATED_ON, 1)))
    compression = fxcompress.compress(model, _stack(), data=[(images,) for images, _ in _scenes(_CALIBRATED_ON, 1)])
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    losses = []
    for images, targets in _scenes(_TRAINED_ON, 2):
        found = model(images, targets)
        loss = sum(found.values()) + compression.controller.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    with torch.no_grad():
        predictions = model(_scenes(_TRAINED_ON, 3)[2][0])
    moved = sum(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (
        set(predictions[0]) == {"boxes", "scores", "labels"} and moved and all(map(torch.isfinite, map(torch.tensor, losses)))
    )
    with tempfile.TemporaryDirectory() as folder:
        files = compression.to_onnx(folder)
        number = len(files) if isinstance(files, list) else 1
    parts = ", ".join(compression.compiled.parts)
    return f"parts {parts}; losses {', '.join(f'{loss:.2f}' for loss in losses)}; {number} files"


def _segmenter(build: Callable[[], nn.Module]) -> str:
    torch.manual_seed(0)
    calibration = [torch.rand(2, 3, *size) for size in _CALIBRATED_ON]
    model = _settled(build().eval(), calibration)
    compression = fxcompress.compress(model, _stack(), data=calibration)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for size in _TRAINED_ON:
        outputs = model(torch.rand(2, 3, *size))
        loss = sum(nn.functional.cross_entropy(one, torch.randint(4, (2, *size))) for one in outputs.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        files = compression.to_onnx(f"{folder}/whole.onnx" if not hasattr(compression.compiled, "parts") else folder)
        number = len(files) if isinstance(files, list) else 1
    return f"losses {', '.join(f'{loss:.2f}' for loss in losses)}; outputs {', '.join(outputs)}; {number} file(s)"
