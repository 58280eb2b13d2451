"""Natural photographs for calibration and scoring, cut from those that scikit-image and scikit-learn carry.

Every photograph is divided once: calibration crops come from one part, scoring crops from the other, so that no pixel
serves both. Crops are random in place, size and proportion, half of them mirrored, with mild changes of brightness and
contrast, all drawn from fixed seeds.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.requirements import need

SIZE = 224
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
"""Of the ImageNet training set, per RGB channel, for pixels in 0..1."""

CALIBRATION_SHARE = 0.4
"""How much of every photograph's longer side serves calibration."""

SEEDS = {"calibration": 1, "scoring": 2}


def calibration_images(count: int = 300) -> Tensor:
    """`count` normalised crops, (count, 3, 224, 224) float32."""
    return crops("calibration", count)


def scoring_images(count: int = 500) -> Tensor:
    """`count` normalised crops of other pixels than the calibration crops, (count, 3, 224, 224) float32."""
    return crops("scoring", count)


@cache
def photographs() -> tuple[Tensor, ...]:
    """The photographs, each (3, height, width) float32 in 0..1."""
    data, samples = need("skimage.data"), need("sklearn.datasets").load_sample_images().images
    bundled = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]]
    return tuple(torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in (*bundled, *samples))


@cache
def crops(purpose: str, count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """`count` normalised crops, (count, 3, size, size) float32; another `seed` gives others of the same pixels."""
    random = np.random.default_rng([SEEDS[purpose], seed] if seed else SEEDS[purpose])
    parts = [_part(photograph, purpose) for photograph in photographs()]
    return torch.stack([_crop(parts[i % len(parts)], size, random) for i in range(count)])


def _part(photograph: Tensor, purpose: str) -> Tensor:
    """The share of `photograph` that serves `purpose`, divided across its longer side."""
    axis = 1 if photograph.shape[1] > photograph.shape[2] else 2
    length = photograph.shape[axis]
    border = round(length * CALIBRATION_SHARE)
    start, stop = (0, border) if purpose == "calibration" else (border, length)
    return photograph.narrow(axis, start, stop - start)


def _crop(part: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """One random crop of `part`, resized to `size` by `size`, augmented and normalised."""
    height, width = part.shape[1:]
    area = random.uniform(0.4, 1.0) * min(height, width) ** 2
    proportion = np.exp(random.uniform(np.log(4 / 5), np.log(5 / 4)))
    h, w = min(height, round(np.sqrt(area / proportion))), min(width, round(np.sqrt(area * proportion)))
    top, left = random.integers(height - h + 1), random.integers(width - w + 1)
    crop = part[:, top : top + h, left : left + w]
    crop = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    if random.random() < 0.5:
        crop = crop.flip(2)
    brightness, contrast = random.uniform(0.85, 1.15, size=2)
    crop = ((crop - crop.mean()) * contrast + crop.mean() * brightness).clamp(0, 1)
    return (crop - MEAN) / STD
