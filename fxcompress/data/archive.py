"""Calibration data of models with several inputs: arrays in one `.npz` file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxcompress.errors import InputError, unreadable

HOW = "write it with numpy.savez(path, name=array, ...)"


class ArchiveFile:
    """The rows of the arrays in a `.npz` file, ready for a model: dimension 0 of each counts samples.

    Arrays that were saved by name are keyword inputs of these names, those that were not (``arr_0``, ``arr_1`` ...) inputs in
    their order. Arrays of float64 are taken as float32.

    Args:
        path: written by ``numpy.savez``.
        samples: at most so many, the first ones; None for all.
        batch_size: samples a batch.

    Raises:
        InputError: no such file, no such archive, or its arrays do not have the same number of samples, one or more.
    """

    def __init__(self, path: str | os.PathLike[str], *, samples: int | None = None, batch_size: int = 1):
        self.path, self.batch_size = Path(path), batch_size
        if not self.path.is_file():
            raise InputError(f"there is no file {self.path}; {HOW}")
        with unreadable(f"{self.path} is no archive of arrays", HOW), np.load(self.path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
        self._check(arrays)
        self.arrays = {name: array[:samples] for name, array in arrays.items()}

    def _check(self, arrays: dict[str, np.ndarray]) -> None:
        rows = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        if not rows or 0 in rows.values():
            empty = [name for name, count in rows.items() if not count]
            raise InputError(f"{self.path} has no samples{' in ' if empty else ''}{', '.join(empty)}; {HOW}, a row a sample")
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{count} of {name}" for name, count in rows.items())
            raise InputError(f"the arrays in {self.path} have different numbers of samples: {counts}")
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub":
                raise InputError(f"{name} in {self.path} holds {array.dtype}, not numbers that a model takes")

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def are_positional(self) -> bool:
        """Whether the arrays were saved without names."""
        return all(re.fullmatch(r"arr_\d+", name) for name in self.arrays)

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor] | tuple[Tensor, ...]]:
        for start in range(0, self.samples, self.batch_size):
            batch = {name: _tensor(array[start : start + self.batch_size]) for name, array in self.arrays.items()}
            yield tuple(batch.values()) if self.are_positional else batch

    def __str__(self) -> str:
        held = ", ".join(f"{name} [{', '.join(map(str, array.shape[1:]))}]" for name, array in self.arrays.items())
        return f"{self.samples} samples of {self.path}: {held}"


def _tensor(array: np.ndarray) -> Tensor:
    kind = np.float32 if array.dtype == np.float64 else array.dtype
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))
