"""Calibration data that lie on several processes, a share on each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import Remembered, check_batches


class AllRanks:
    """The batches of every process's `data`, on every process in the same order: first those that come first, by rank.

    All processes then choose the same ranges, masks and integers, those that one process chooses with all the data. Reading it
    is collective: every process of the group must compress the same model with the same passes. Without a process group, or
    with one of one process, it is `data`.

    Args:
        data: the share of this process, as long as that of others or not; what it holds can be pickled.
        group: of `torch.distributed`; None for the default one.
    """

    def __init__(self, data: Iterable[Any], group: Any = None):
        check_batches(data)
        self.data, self.group = Remembered(data) if isinstance(data, Iterator) else data, group

    def __iter__(self) -> Iterator[Any]:
        if not distributed.is_available() or not distributed.is_initialized() or self._size == 1:
            yield from self.data
            return
        own: Iterator[Any] = iter(self.data)
        while True:
            found = self._gathered(next(own, None))
            yield from (batch for batch in found if batch is not None)
            if all(batch is None for batch in found):
                return

    @property
    def _size(self) -> int:
        return distributed.get_world_size(self.group)

    def _gathered(self, batch: Any) -> list[Any]:
        """The `batch` of every process, on the device of this one's; None of those that have no more."""
        device = next((leaf.device for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)), torch.device("cpu"))
        found: list[Any] = [None] * self._size
        distributed.all_gather_object(found, _moved(batch, torch.device("cpu")), self.group)
        return [_moved(one, device) for one in found]


def _moved(batch: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)
