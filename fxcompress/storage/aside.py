"""Tensors that are seldom read, in a file that the system may drop from memory and read again."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable

import torch
from torch import Tensor

WORTH = 2**26
"""Bytes of tensors that a file is made for, at least."""

_ALIGNED = 64


def put_aside(tensors: Iterable[Tensor]) -> None:
    """Let the memory of `tensors` be that of a file without a name, in the folder for temporary files.

    They are what they were; who writes to them has pages of his own, and the file is gone with the last of them. Those that
    share their memory with others, or are on another device, stay where they are; so do all where there is no room for a file.
    """
    moved = [one for one in {id(one): one for one in tensors}.values() if _is_whole(one)]
    if sum(one.nbytes for one in moved) < WORTH:
        return
    places = []
    try:
        with tempfile.TemporaryFile() as file:
            for one in moved:
                file.seek(-file.tell() % _ALIGNED, 1)
                places.append(file.tell())
                file.write(one.detach().numpy().data)
            file.flush()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError:
        return
    for one, place in zip(moved, places):
        one.data = torch.frombuffer(pages, dtype=one.dtype, count=one.numel(), offset=place).view(one.shape)


def is_aside(tensor: Tensor) -> bool:
    """Whether the memory of `tensor` is that of a file, or of something else than torch."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.untyped_storage().resizable()


class Replaced:
    """Tensors that something else was put in the place of, put aside as soon as they are worth a file."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        self._waiting.append(tensor)
        if sum(one.nbytes for one in self._waiting) >= WORTH:
            put_aside(self._waiting)
            self._waiting = []


def _is_whole(tensor: Tensor) -> bool:
    """Whether it lies in one piece, on the CPU, of a type that numpy has, and in all of its memory, which is torch's."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_inference():
        return False
    memory = tensor.untyped_storage()
    whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes > 0
    return whole and tensor.dtype in _TYPES and memory.resizable()


_TYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8)
