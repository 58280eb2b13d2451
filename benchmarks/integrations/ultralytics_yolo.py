"""Ultralytics' YOLO, built from its own YAML files, in a plain loop with its own loss: ``loss, items = model(batch)``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import fxcompress
from benchmarks.integrations.rows import Case
from benchmarks.models import import_torchvision


def cases() -> Iterator[Case]:
    """Detectors with and without a second head, trained on two sizes of images, then written as one file."""
    import_torchvision()
    for name in ("yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml"):
        yield f"{name}: train on two sizes, predict, write", 2, partial(_loop, name)


def _model(name: str) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel  # takes seconds

    torch.manual_seed(0)
    model = DetectionModel(name, nc=4, verbose=False)
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)  # gains of its losses
    for height, width in ((96, 96), (64, 96)):
        model.train()(_batch(height, width)["img"])  # statistics of batches to choose ranges by
    return model


def _batch(height: int, width: int) -> dict[str, Tensor]:
    """Images ``[2, 3, height, width]`` with three boxes."""
    classes, boxes = torch.randint(0, 4, (3, 1)).float(), torch.rand(3, 4) * 0.4 + 0.3
    images = torch.rand(2, 3, height, width)
    return {"img": images, "batch_idx": torch.tensor([0.0, 0.0, 1.0]), "cls": classes, "bboxes": boxes}


def _loop(name: str) -> str:
    model: Any = _model(name)
    data = [(_batch(height, width)["img"],) for height, width in ((96, 96), (64, 96))]
    compression = fxcompress.compress(model, fxcompress.defaults.training(), data=data)
    optimizer = torch.optim.SGD(fxcompress.parameter_groups(model), lr=1e-3, momentum=0.9)
    losses = []
    for height, width in ((96, 96), (64, 96), (128, 64)):
        loss = model.train()(_batch(height, width))[0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(f"{float(loss):.2f}")
    model.eval()(data[0][0])
    with tempfile.TemporaryDirectory() as folder:
        compression.to_onnx(f"{folder}/yolo.onnx")
    return f"{len(compression.compiled.parts)} parts; losses {', '.join(losses)}; 1 file"
