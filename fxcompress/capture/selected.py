"""Loops over the places that are set, such as the experts to which some token goes, traced for whatever places are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxcompress.capture.lines import calling_line, is_running

_NONZERO = (Tensor.nonzero, torch.nonzero)

_NOWHERE = "", 0

Most = dict[str, int]
"""How many places there are at most, by the line that finds them."""


class LoopsOverAllPlaces(TorchFunctionMode):
    """Lets a loop over ``mask.nonzero()`` of a mask of a known length go over every place, or as many as are `most`.

    How often the loop runs would depend on the data. At a place that is not set its body finds nothing to compute with, as of
    an expert without tokens: the graph has to be the model where nothing is found (see `fxcompress.capture.emptiness`).
    `told` are notes of such loops, by the lines that find places.
    """

    def __init__(self, most: Most) -> None:
        super().__init__()
        self.told: dict[str, str] = {}
        self._most, self._place = most, _NOWHERE
        self._left: tuple[FrameType, tuple[str, int]] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._left is not None and is_running(self._left[0]):  # it is behind, and no error left it
            self._place, self._left = self._left[1], None
        if func is Tensor.unbind and (known := getattr(args[0], "_places", None)) is not None:
            count, line = known
            until = self._most.setdefault(line, count)
            over = "all of them" if until == count else f"the first {until}, since there is nothing behind them"
            self.told[line] = f"a loop over the places of {count} that are set goes over {over}, since of nothing nothing comes"
            return self._visited(line, until)  # a tensor's own iterator unbinds it
        if func is Tensor.__format__ and (known := getattr(args[0], "constant", None)) is not None:
            return format(known, *args[1:])  # a place in the name of a module
        result = func(*args, **(kwargs or {}))
        if func in _NONZERO and isinstance(result, Tensor) and args[0].dim() == 1 and isinstance(args[0].shape[0], int):
            result._places = args[0].shape[0], calling_line()  # type: ignore[attr-defined]
        return result

    def shortened(self) -> bool:
        """Let the loop that is at a place, which the model turned out not to have, end in front of it; whether there is one."""
        line, place = self._place
        if place:
            self._most[line] = place
        return place > 0

    def _visited(self, line: str, until: int) -> Iterator[Tensor]:
        around = self._place
        try:
            for place in range(until):
                self._place, self._left = (line, place), None
                yield torch.tensor([place])
        except GeneratorExit:
            self._left = sys._getframe(1), around
            raise
        self._place = around
