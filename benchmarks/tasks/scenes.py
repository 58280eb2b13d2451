"""Scenes: clothes of Fashion-MNIST over crops of photographs, with masks and boxes, written as images and COCO's JSON.

Scenes to train on have items and photographs of their own, those to measure on others. An item is resized, mirrored, tinted and
put at a random place where it covers little of the items before it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import pictures
from benchmarks.laboratory import fashion
from benchmarks.requirements import need
from fxcompress.storage.atomic import write_text

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SIZE = 96
ITEMS, SIDES = (1, 4), (26, 46)
"""How many items a scene has, and their longer side in pixels."""
COVERED, TRIALS = 0.25, 20
"""The largest share of an item that a later one may cover, and how many places are tried."""
COUNTS = {"train": 2000, "valid": 500}
_PURPOSES = {"train": "calibration", "valid": "scoring"}


def write(folder: Path, counts: dict[str, int] | None = None, items: Path = fashion.DEBIAN_FOLDER) -> Path:
    """``train`` and ``valid`` in `folder`, each with ``images``, ``masks`` and ``annotations.json``; what is there is kept.

    A mask has a pixel's class, 0 for none; classes count from 1 as in COCO's JSON.

    Args:
        counts: of scenes, of each part.
        items: the folder of Fashion-MNIST's files.
    """
    for part, count in (counts or COUNTS).items():
        done = folder / part / "annotations.json"
        if done.exists() and len(json.loads(done.read_text())["images"]) == count:
            continue
        data = fashion.load(items)
        of_part = {"train": (data.train_images, data.train_labels), "valid": (data.test_images, data.test_labels)}[part]
        _write_part(folder / part, part, count, *of_part)
    return folder


def _write_part(folder: Path, part: str, count: int, images: Tensor, labels: Tensor) -> None:
    image_of = need("PIL.Image").fromarray
    for kind in ("images", "masks"):
        os.makedirs(folder / kind, exist_ok=True)
    random = np.random.default_rng([len(part), count])
    pixels = (images * fashion.DEVIATION + fashion.MEAN).clamp(0, 1)
    backgrounds = pictures.crops(_PURPOSES[part], count, SIZE)
    written: dict[str, list] = {"images": [], "annotations": []}
    for number, background in enumerate(backgrounds):
        scene, mask, found = _scene(background.numpy().copy(), pixels, labels, random)
        name = f"{number:05}.png"
        image_of((scene * 255).round().astype(np.uint8).transpose(1, 2, 0)).save(folder / "images" / name)
        image_of(mask).save(folder / "masks" / name)
        written["images"].append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        for one in found:
            written["annotations"].append({"id": len(written["annotations"]) + 1, "image_id": number, "iscrowd": 0, **one})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    write_text(folder / "annotations.json", json.dumps({**written, "categories": categories}))  # last: then all is there


def _scene(
    scene: np.ndarray, pixels: Tensor, labels: Tensor, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list]:
    """`scene`, (3, SIZE, SIZE), with items in it, its mask, and what COCO says of each item that is seen."""
    owner = np.zeros((SIZE, SIZE), np.uint8)  # the number of the item that is seen there
    areas, classes = [], []
    for _ in range(random.integers(ITEMS[0], ITEMS[1] + 1)):
        chosen = int(random.integers(len(labels)))
        shade, shape = _item(pixels[chosen, 0], random)
        corner = _place(shape, owner, areas, random)
        if corner is None:
            continue
        areas.append(int(shape.sum()))
        classes.append(int(labels[chosen]) + 1)
        window = (slice(corner[0], corner[0] + shape.shape[0]), slice(corner[1], corner[1] + shape.shape[1]))
        tint = random.uniform(0.5, 1.0, size=(3, 1, 1)).astype(np.float32)
        scene[:, *window] = np.where(shape, shade * tint, scene[:, *window])
        owner[window][shape] = len(areas)
    mask = np.array([0, *classes], np.uint8)[owner]
    return scene, mask, [_annotation(owner == number, kind) for number, kind in enumerate(classes, 1)]


def _item(image: Tensor, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An item cut out of its 28 x 28 pixels, resized and perhaps mirrored: its brightness and its shape."""
    rows, columns = torch.nonzero(image > 0, as_tuple=True)
    cut = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = random.uniform(*SIDES) / max(cut.shape)
    sides = [max(4, round(side * scale)) for side in cut.shape]
    both = torch.stack([cut, (cut > 0).float()])
    both = torch.nn.functional.interpolate(both[None], sides, mode="bilinear", align_corners=False)[0]
    shade, shape = (both.flip(2) if random.random() < 0.5 else both).numpy()
    return shade, shape > 0.5


def _place(shape: np.ndarray, owner: np.ndarray, areas: list[int], random: np.random.Generator) -> tuple[int, int] | None:
    """The corner of a place where `shape` covers little of what is there, None where none was found."""
    for _ in range(TRIALS):
        top, left = (int(random.integers(SIZE - side + 1)) for side in shape.shape)
        under = owner[top : top + shape.shape[0], left : left + shape.shape[1]][shape]
        seen = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
        left_over = seen - np.bincount(under, minlength=len(areas) + 1)[1:]
        if all(rest >= (1 - COVERED) * area for rest, area in zip(left_over, areas)):
            return top, left
    return None


def _annotation(seen: np.ndarray, kind: int) -> dict:
    rows, columns = np.nonzero(seen)
    left, top = int(columns.min()), int(rows.min())
    box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
    return {"category_id": kind, "bbox": box, "area": int(seen.sum())}
