"""Loops over the places that are set, such as the experts to which some token goes, traced for whatever places are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NONZERO = (Tensor.nonzero, torch.nonzero)


class LoopsOverAllPlaces(TorchFunctionMode):
    """Lets a loop over ``mask.nonzero()`` of a mask of a known length go over every place; `told` are notes that it did.

    How often the loop runs would depend on the data. At a place that is not set its body finds nothing to compute with, as of
    an expert without tokens: the graph has to be the model where nothing is found (see `fxcompress.capture.emptiness`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unbind and (count := getattr(args[0], "_places", None)) is not None:
            note = f"a loop over the places of {count} that are set goes over all of them, since of nothing nothing comes"
            self.told += [] if note in self.told else [note]
            return tuple(torch.tensor([place]) for place in range(count))  # a tensor's own iterator unbinds it
        if func is Tensor.__format__ and (known := getattr(args[0], "constant", None)) is not None:
            return format(known, *args[1:])  # a place in the name of a module
        result = func(*args, **(kwargs or {}))
        if func in _NONZERO and isinstance(result, Tensor) and args[0].dim() == 1 and isinstance(args[0].shape[0], int):
            result._places = args[0].shape[0]  # type: ignore[attr-defined]
        return result
