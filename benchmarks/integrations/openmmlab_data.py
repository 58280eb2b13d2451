"""Images of two shapes on noise, written as COCO, Cityscapes and DRIVE lie on a disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from benchmarks.requirements import need

_SIDES = ((96, 128), (128, 96))
_COUNTS = {"train": 8, "val": 4}


def coco() -> None:
    """``data/coco`` in the working folder: boxes of two of its 80 classes."""
    names = need("mmdet.datasets").CocoDataset.METAINFO["classes"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    os.makedirs("data/coco/annotations")
    for part, count in _COUNTS.items():
        images, annotations = [], []
        for number in range(count):
            pixels, _, boxes = _scene(part, number)
            name = f"{number:04}.jpg"
            _save(pixels, Path(f"data/coco/{part}2017") / name)
            images.append({"id": number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
            for kind, (left, top, width, height) in enumerate(boxes, 1):
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "iscrowd": 0}
                annotations.append({**one, "bbox": [left, top, width, height], "area": width * height})
        written = {"images": images, "annotations": annotations, "categories": categories}
        Path(f"data/coco/annotations/instances_{part}2017.json").write_text(json.dumps(written))


def cityscapes() -> None:
    """``data/cityscapes`` in the working folder: masks of two of its 19 classes."""
    for part, count in _COUNTS.items():
        for number in range(count):
            pixels, mask, _ = _scene(part, number)
            stem = f"data/cityscapes/{{}}/{part}/town/town_{number:06}_000000"
            _save(pixels, Path(stem.format("leftImg8bit") + "_leftImg8bit.png"))
            _save(mask, Path(stem.format("gtFine") + "_gtFine_labelTrainIds.png"))


def drive() -> None:
    """``data/DRIVE`` in the working folder: masks of its background and its class."""
    for part, count in {"training": _COUNTS["train"], "validation": _COUNTS["val"]}.items():
        for number in range(count):
            pixels, mask, _ = _scene(part, number)
            _save(pixels, Path(f"data/DRIVE/images/{part}/{number:02}.png"))
            _save((mask == 1).astype(np.uint8), Path(f"data/DRIVE/annotations/{part}/{number:02}_manual1.png"))


def _scene(part: str, number: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    """Pixels (height, width, 3), a mask of classes, 255 for none, and the boxes of both, left, top, width and height."""
    random = np.random.default_rng([len(part), number])
    height, width = _SIDES[number % 2]
    pixels = random.integers(0, 100, (height, width, 3), dtype=np.uint8)
    mask, boxes = np.full((height, width), 255, np.uint8), []
    for kind in range(2):
        side = int(random.integers(36, 48))
        left, top = kind * width // 2, int(random.integers(height - side))
        window = (slice(top, top + side), slice(left, left + side))
        pixels[window][..., kind] = 255
        mask[window] = kind
        boxes.append((left, top, side, side))
    return pixels, mask, boxes


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    need("PIL.Image").fromarray(pixels).save(path)
