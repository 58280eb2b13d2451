"""Numbers of tokens counted by ``bincount``, in bins whose number is known: that of the modules in a list of the model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fxcompress.capture.lines import calling_line

BINCOUNT = (torch.bincount, Tensor.bincount)
_READ = (Tensor.unbind, Tensor.numpy)
AS_IT_IS = (Tensor.cpu, Tensor.to, Tensor.long, Tensor.int, Tensor.detach, Tensor.clone, Tensor.contiguous)


class BinsOfAList(TorchFunctionMode):
    """Has ``bincount`` without a number of bins, once what it counted is read, be of as many as `lengths` say first.

    The highest bin that anything is in would be the last; where nothing is in one, nothing comes of it. So there are as many
    as the longest list of modules has that the model does not reach beyond; `told` are notes of that.
    """

    def __init__(self, lengths: list[int]) -> None:
        super().__init__()
        self.told: dict[str, None] = {}
        self._lengths, self._known = lengths, WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = self._known.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if known is not None and func in _READ:
            self.told[f"bins are those of {self._lengths[0]} modules, since nothing is behind them: {calling_line()}"] = None
            return func(known, *args[1:], **kwargs)
        result = func(*args, **kwargs)
        if func in BINCOUNT and len(args) == 1 and not kwargs and self._lengths:
            self._known[result] = in_so_many_bins(args[0], minlength=self._lengths[0])
        elif known is not None and func in AS_IT_IS:
            self._known[result] = func(known, *args[1:], **kwargs)
        return result

    def shortened(self) -> bool:
        """Let bins be those of a shorter list, where the model turned out not to have as many; whether there is one."""
        if not self.told or len(self._lengths) < 2:
            return False
        del self._lengths[0]
        return True


def lengths_of_lists(model: nn.Module) -> list[int]:
    """How many modules the lists in `model` have, the most first."""
    return sorted({len(one) for one in model.modules() if isinstance(one, nn.ModuleList)}, reverse=True)


def in_so_many_bins(x: Tensor, *, minlength: int) -> Tensor:
    """``bincount``, of `minlength` bins alone: whatever is beyond them is not counted, and makes no more of them."""
    return (x[:, None] == torch.arange(minlength, device=x.device)).sum(0)
