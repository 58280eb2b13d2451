"""Pictures to calibrate on and others to score on: different photographs, not only different crops of the same.

Those of scikit-image and scikit-learn. A user calibrates on photographs; what is scored are other photographs, textures and
drawings, most of them photographs. Crops are made as in `benchmarks.photographs`, from fixed seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.requirements import need

PURPOSES = {
    "calibration": (("astronaut", "coffee", "rocket", "motorcycle_left", "flower"),),
    "scoring": (
        ("chelsea", "china", "camera", "coins", "moon", "ihc"),
        ("chelsea", "china", "camera", "clock_motion", "retina", "hubble_deep_field"),
        ("brick", "grass", "gravel"),
        ("horse", "logo", "page", "text", "chessboard_RGB"),
    ),
}
"""The pictures of each purpose, in kinds that take turns."""

SEEDS = {"calibration": 1, "scoring": 2}

LINES = {"calibration": "page", "scoring": "text"}
"""The photographs of printed text."""


def crops(purpose: str, count: int, size: int, seed: int = 0) -> Tensor:
    """`count` crops, (count, 3, size, size) float32 in 0..1; another `seed` gives others of the same pictures."""
    random = np.random.default_rng([SEEDS[purpose], seed])
    kinds = PURPOSES[purpose]
    chosen = [kinds[i % len(kinds)][i // len(kinds) % len(kinds[i % len(kinds)])] for i in range(count)]
    return torch.stack([_crop(picture(name), size, random) for name in chosen])


def normalized(pixels: Tensor) -> Tensor:
    """`pixels`, (count, 3, height, width) in 0..1, as networks trained on ImageNet take them."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def lines(purpose: str, count: int, height: int = 64, width: int = 256, seed: int = 0) -> Tensor:
    """`count` cuts of a few words out of a photograph of text, (count, 1, height, width) float32 in -1..1."""
    random = np.random.default_rng([SEEDS[purpose], seed, 1])
    page = picture(LINES[purpose]).mean(0, keepdim=True)
    return torch.stack([_cut(page, height, width, random) for _ in range(count)]) * 2 - 1


@cache
def picture(name: str) -> Tensor:
    """The picture called so, (3, height, width) float32 in 0..1."""
    if name in ("china", "flower"):
        array = need("sklearn.datasets").load_sample_image(f"{name}.jpg")
    else:
        folder = need("pathlib").Path(need("skimage.data").__file__).parent
        path = next(path for path in folder.iterdir() if path.stem == name)
        array = need("skimage.io").imread(path)
    pixels = torch.from_numpy(np.array(array)).float()
    pixels = (pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))[:3]
    return (pixels / pixels.max().clamp(min=1.0)).expand(3, -1, -1)


def _crop(whole: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """A random part of `whole`, resized, perhaps mirrored, with its brightness and contrast changed a little."""
    height, width = whole.shape[1:]
    area = random.uniform(0.1, 1.0) * min(height, width) ** 2
    proportion = np.exp(random.uniform(np.log(4 / 5), np.log(5 / 4)))
    part = _part(whole, np.sqrt(area / proportion), np.sqrt(area * proportion), random)
    part = _resized(part, size, size)
    if random.random() < 0.5:
        part = part.flip(2)
    brightness, contrast = random.uniform(0.85, 1.15, size=2)
    return ((part - part.mean()) * contrast + part.mean() * brightness).clamp(0, 1)


def _cut(page: Tensor, height: int, width: int, random: np.random.Generator) -> Tensor:
    tall = random.uniform(20, 40)
    return _resized(_part(page, tall, tall * width / height, random), height, width).clamp(0, 1)


def _part(whole: Tensor, height: float, width: float, random: np.random.Generator) -> Tensor:
    limits: Sequence[int] = whole.shape[1:]
    h, w = (min(limit, max(8, round(side))) for limit, side in zip(limits, (height, width)))
    top, left = random.integers(limits[0] - h + 1), random.integers(limits[1] - w + 1)
    return whole[:, top : top + h, left : left + w]


def _resized(part: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(part[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
