"""Numbers of tokens that chose each of several experts, counted by marks: ``zeros.scatter_(1, chosen, 1).sum(0)``, or one-hot.

Of such counts it is known how much they are together, which a model relies on that puts together what the experts made of
their parts. That an expert gets any is taken for granted (see `fxcompress.capture.emptiness`), and tried by hiding some of
what there is to choose from.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from fxcompress.capture.bins import AS_IT_IS

aten = torch.ops.aten

_MARKING = (Tensor.scatter_, Tensor.scatter, torch.scatter)
_VIEWS = (Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.permute, Tensor.transpose)
_SUM = (Tensor.sum, torch.sum)
_CHOOSING = (aten.topk.default, aten.argmax.default, aten.max.dim, aten.sort.default)

_BITS = 3


class _Together:
    """Numbers that are so much together as `total` says."""

    def __init__(self, total: Any, count: int) -> None:
        self._total, self._count, self._numbers = total, count, dict[int, Any]()

    def learn(self, place: int, number: Any) -> None:
        """Let the trace know of the `number` at `place` what it cannot see."""
        self._numbers[place] = number
        so_far = sum(self._numbers.values())
        torch._check(number >= 0)
        torch._check(so_far <= self._total)
        if len(self._numbers) == self._count:
            torch._check(so_far == self._total)


class Choices:
    """Follows marks and their counts through calls."""

    def __init__(self) -> None:
        self._marks, self._counts, self._parts = (WeakTensorKeyDictionary() for _ in range(3))

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> bool:
        """Know `result` of a call; whether it is a number of tokens, as one of Python."""
        first = args[0] if args else None
        if not isinstance(first, Tensor):
            return False
        if func in _MARKING and _is_of_ones(args, kwargs):
            marked = result, *(args[:1] if func is Tensor.scatter_ else ())
            self._marks.update(dict.fromkeys(marked, args[2].numel()))
        elif func is F.one_hot:
            self._marks[result] = first.numel()
        elif func in (*AS_IT_IS, *_VIEWS):
            for known in (self._marks, self._counts) if func in AS_IT_IS else (self._marks,):
                known.update({result: known[first]} if first in known else {})
        elif func in _SUM and first in self._marks and result.dim() == 1 and isinstance(result.shape[0], int):
            self._counts[result] = _Together(self._marks[first], result.shape[0])
        elif func is Tensor.unbind and first in self._counts:
            self._parts.update({part: (self._counts[first], place) for place, part in enumerate(result)})
        elif func is Tensor.item and first in self._parts:
            together, place = self._parts[first]
            together.learn(place, result)
            return True
        return False


def _is_of_ones(args: Any, kwargs: Any) -> bool:
    """Whether a call of `scatter` writes ones into whole numbers or flags, which are zeros if they are to be counts."""
    value = args[3] if len(args) == 4 else kwargs.get("value")
    return isinstance(value, int) and value == 1 and not args[0].is_floating_point()


def some_hidden() -> list[Hidden]:
    """Contexts in each of which some of what there is to choose from is out of reach, so that nothing chooses it."""
    return [Hidden(bit, value) for bit, value in itertools.product(range(_BITS), (0, 1))]


class Hidden(TorchDispatchMode):
    """Has nothing choose those whose number has `value` as its `bit`, wherever enough others are left; `hid` is whether."""

    def __init__(self, bit: int, value: int) -> None:
        super().__init__()
        self._bit, self._value, self.hid = bit, value, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CHOOSING and args[0].is_floating_point() and args[0].dim():
            args = (self._out_of_reach(func, args), *args[1:])
        return func(*args, **kwargs)

    def _out_of_reach(self, func: Any, args: Any) -> Tensor:
        scores, needed = args[0], args[1] if func is aten.topk.default else 1
        hidden = (torch.arange(scores.shape[-1]) >> self._bit) % 2 == self._value
        left = scores.shape[-1] - int(hidden.sum())
        if not needed <= left < scores.shape[-1]:
            return scores
        self.hid = True
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
