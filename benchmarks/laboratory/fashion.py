"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 images of clothes to train on and 10,000 to test on, ten classes."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""

HINT = (
    "Get the four files with\n  apt install dataset-fashion-mnist\non Debian or Ubuntu, "
    "or put the published ones (idx, gzipped) into a folder and name it with --data"
)
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training images' pixels, in 0..1."""

IMAGE_SHAPE = (1, 28, 28)
BATCH = 256
CALIBRATION = 512


@dataclass(frozen=True)
class Fashion:
    """Images ``[count, 1, 28, 28]``, float32 with mean 0 and deviation 1, channels last, and their labels ``[count]``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def shortened(self, count: int) -> Fashion:
        """With the first `count` of the training images; all test images."""
        return Fashion(self.train_images[:count], self.train_labels[:count], self.test_images, self.test_labels)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train_labels) / BATCH)

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images in batches, in an order of their own for each `seed`, half of them mirrored."""
        chance = torch.Generator().manual_seed(seed)
        for chosen in torch.randperm(len(self.train_labels), generator=chance).split(BATCH):
            images = self.train_images[chosen]
            mirrored = torch.rand(len(chosen), 1, 1, 1, generator=chance) < 0.5
            yield torch.where(mirrored, images.flip(3), images), self.train_labels[chosen]

    def calibration(self) -> list[tuple[Tensor, Tensor]]:
        """The first training images, for ranges and whatever else looks at data before training."""
        images, labels = self.train_images[:CALIBRATION], self.train_labels[:CALIBRATION]
        return list(zip(images.split(BATCH // 2), labels.split(BATCH // 2)))


def load(folder: Path) -> Fashion:
    """The data set in `folder`.

    Raises:
        SystemExit: a file is not there, or is not what its name says; says how to get it.
    """
    train, test = (
        (_images(folder / f"{part}-images-idx3-ubyte.gz"), _read(folder / f"{part}-labels-idx1-ubyte.gz", 1))
        for part in ("train", "t10k")
    )
    return Fashion(train[0], torch.from_numpy(train[1]).long(), test[0], torch.from_numpy(test[1]).long())


def _images(path: Path) -> Tensor:
    pixels = torch.from_numpy(_read(path, 3)).unsqueeze(1).float()
    return ((pixels / 255 - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file: two zeros, 8 (unsigned bytes), the number of dimensions, the sizes in 32 bits, the values."""
    if not path.exists():
        raise SystemExit(f"{path} is not there. {HINT}")
    content = gzip.decompress(path.read_bytes())
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise SystemExit(f"{path} is no idx file of bytes in {dimensions} dimensions. {HINT}")
    sizes = np.frombuffer(content, ">u4", dimensions, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes).copy()
