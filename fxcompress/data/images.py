"""Calibration data from files: a folder of images, or an array saved by numpy.

Both give float batches of one input, can be iterated again and again, and read from disk as they go.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxcompress.errors import InputError, unreadable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_SHARE = 0.875
"""The share of an image's shorter side that is kept, as most classifiers are evaluated: 224 of 256 pixels."""


class ImageFolder:
    """The images in a folder and the folders in it, prepared for a model.

    Each is turned upright as its camera noted, cut to the middle 87.5% in the model's aspect ratio, resized, scaled to 0..1
    and normalised: ``(pixel / 255 - mean) / std``.

    Args:
        folder: PNG, JPEG, BMP or WebP files; other files are passed by.
        shape: channels (1 or 3), height and width that the model takes.
        mean, std: one number, or one a channel; ImageNet's for 3 channels and 0 and 1 for one unless given.
        samples: at most so many images, spread evenly over the sorted file names, so that a folder sorted by class gives
            all classes. None for all.
        batch_size: images a batch; what is left over is a smaller last batch.

    Raises:
        InputError: no such folder, no image in it, an unusable shape, mean or std, or Pillow is missing. While iterating: a
            file is not the image that its name says.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        shape: Sequence[int] = (3, 224, 224),
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        samples: int | None = None,
        batch_size: int = 1,
    ):
        _pillow()
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(
                f"images are prepared for a model that takes [batch, 1 or 3, height, width], not [batch, {_joined(shape)}]; "
                "save the calibration data as .npy instead"
            )
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        coloured = shape[0] == 3
        self.mean = _per_channel("mean", mean or (IMAGENET_MEAN if coloured else (0.0,)), self.shape[0])
        self.std = _per_channel("std", std or (IMAGENET_STD if coloured else (1.0,)), self.shape[0])
        self.paths = _spread(find_images(folder), samples)
        self.batch_size = batch_size
        self.folder = Path(folder)

    def __len__(self) -> int:
        return math.ceil(len(self.paths) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.paths), self.batch_size):
            yield torch.stack([self.prepare(path) for path in self.paths[start : start + self.batch_size]])

    def prepare(self, path: Path) -> Tensor:
        """The image at `path` as the model takes it: float32 ``[channels, height, width]``."""
        Image, ImageOps = _pillow()
        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        with unreadable(f"cannot read the image {path}", "repair or remove the file"), Image.open(path) as image:
            image.draft(mode, (math.ceil(width / CROP_SHARE), math.ceil(height / CROP_SHARE)))  # JPEG: decode no larger
            upright = ImageOps.exif_transpose(image).convert(mode)
        bleed = (1 - CROP_SHARE) / 2
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR, bleed=bleed)
        pixels = torch.from_numpy(np.array(fitted, dtype=np.float32)).reshape(height, width, channels)
        return ((pixels / 255 - self.mean) / self.std).permute(2, 0, 1).contiguous()

    @property
    def samples(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        channels, height, width = self.shape
        mean, std = (", ".join(f"{v:g}" for v in values.tolist()) for values in (self.mean, self.std))
        kind = "RGB" if channels == 3 else "grey"
        return f"{len(self.paths)} images in {self.folder}, {kind} {width}x{height}, mean {mean}, std {std}"


class ArrayFile:
    """The rows of a `.npy` file, ready for a model: dimension 0 counts samples, the others are the model's.

    Args:
        path: written by ``numpy.save``. It is mapped, not loaded, so it may be larger than memory.
        shape: that of one sample as the model takes it; None for whatever is there.
        dtype: the model's; a float64 array is taken for a float32 model, any other difference is an error.
        samples: at most so many, the first ones; None for all.
        batch_size: samples a batch.

    Raises:
        InputError: no such file, not an array, empty, or of another shape or type than the model takes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: Sequence[int] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        batch_size: int = 1,
    ):
        self.path, self.batch_size = Path(path), batch_size
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}; give a .npy file or a folder of images")
        with unreadable(f"{self.path} is not a numpy array", "write an array of numbers with numpy.save"):
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        self.dtype = np.dtype(str(dtype).removeprefix("torch."))
        self._check(array, shape)
        self.array = array[:samples]

    def _check(self, array: Any, shape: Sequence[int] | None) -> None:
        if not isinstance(array, np.ndarray):
            raise InputError(f"{self.path} is an archive of several arrays; save the model's input alone with numpy.save")
        wanted = "samples" if shape is None else f"samples, {_joined(shape)}"
        if array.ndim == 0 or (shape is not None and array.shape[1:] != tuple(shape)):
            raise InputError(f"{self.path} has the shape [{_joined(array.shape)}], but the model takes [{wanted}]")
        if not array.size:
            raise InputError(f"{self.path} is empty: its shape is [{_joined(array.shape)}]")
        if array.dtype != self.dtype and (array.dtype, self.dtype) != (np.float64, np.float32):
            raise InputError(
                f"{self.path} holds {array.dtype}, but the model takes {self.dtype}; "
                "save the array as the model is fed: scaled, normalised, and .astype the right type"
            )

    def __len__(self) -> int:
        return math.ceil(len(self.array) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.array), self.batch_size):
            yield torch.from_numpy(np.array(self.array[start : start + self.batch_size], dtype=self.dtype, order="C"))

    @property
    def samples(self) -> int:
        return len(self.array)

    def __str__(self) -> str:
        return f"{len(self.array)} samples of {self.path}, {self.dtype} [{_joined(self.array.shape[1:])}]"


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images in `folder` and the folders in it, sorted by path.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; give a folder of images or a .npy file")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != ".")
    if not found:
        others = sum(path.is_file() for path in root.rglob("*"))
        there = f"none of its {others} files is" if others else "it is empty; put"
        ending = "one" if others else "some there"
        kinds = ", ".join(sorted(SUFFIXES))
        what = "; give the folder that they are in, or the samples as an array, FILE.npy" if others else ""
        raise InputError(f"no images in the folder {root}: {there} {ending} ({kinds}){what}")
    return found


def _spread(paths: list[Path], samples: int | None) -> list[Path]:
    """`samples` of `paths`, evenly spaced."""
    if samples is None or samples >= len(paths):
        return paths
    return [paths[i * len(paths) // samples] for i in range(samples)]


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        raise InputError(f"{name} has {len(values)} values, but the model takes {channels} channels; give 1 or {channels}")
    if name == "std" and min(values) <= 0:
        raise InputError(f"std must be positive, not {_joined(values)}")
    if max(values) > 1:
        raise InputError(f"{name} {_joined(values)} is for pixels from 0 to 255; divide it by 255, pixels are scaled to 0..1")
    return torch.tensor(values, dtype=torch.float32).expand(channels)


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError("reading images needs Pillow: pip install pillow, or save the data as .npy") from None
    return Image, ImageOps
