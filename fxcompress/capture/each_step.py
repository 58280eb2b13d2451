"""What a loop over steps goes through: numbers, the parts of a tensor, and several of these side by side.

``range(x.shape[1])``, ``x.unbind(1)``, ``x.split(1, dim=1)``, ``for part in x`` and ``zip`` of them, of a free size. They
want a number, which would be that of the example.
"""

from __future__ import annotations

import builtins
import contextlib
import operator
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

from fxcompress.capture.replaced import replaced

own_range, own_zip = builtins.range, builtins.zip

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"

_UNBIND, _SPLIT = (torch.unbind, Tensor.unbind), (torch.split, Tensor.split)


class Each(list[Any]):
    """One value a step, `size` of them: that of a number is what `at` gives. `steps` goes through as many as are tried.

    It is a list, without values of its own, since torch takes none but these for a sequence of tensors.
    """

    def __init__(self, size: Any, at: Callable[[int], Any], steps: Callable[[Each], Iterator[Any]]) -> None:
        super().__init__()
        self.size, self.at, self._steps = size, at, steps

    def __iter__(self) -> Iterator[Any]:
        return self._steps(self)

    def __len__(self) -> int:
        raise TypeError("a loop over a size that is free has no number of steps")

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, int):
            raise TypeError("some of the parts of a tensor, whose number is free")
        return self.at(place)


class Number(int):
    """That of a step, which tells it from an equal one that a model has written down; what is computed with it is any other."""


def _plainly(name: str) -> Callable[[int, Any], Any]:
    own, reflected = getattr(operator, name.removeprefix("r")), name.startswith("r")
    return lambda one, other: own(other, int(one)) if reflected else own(int(one), other)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    for _own in (_name, f"r{_name}"):  # a size takes none but an int itself
        setattr(Number, f"__{_own}__", _plainly(_own))


Making = Callable[[Any, Callable[[int], Any]], Each]
"""Makes a sequence of its `size` and `at`."""


def taken_apart(func: Any, args: Any, kwargs: Any, each: Making) -> Each | None:
    """The parts that the call of a tensor gives, where their number is free; None of any other call."""
    if func in _UNBIND:
        return _parts(*args, **kwargs, each=each)
    if func in _SPLIT:
        return _slices(*args, **kwargs, each=each)
    if func is Tensor.__len__ and is_free(args[0].shape[0]):
        raise TypeError("a size that is free is no number")  # a list that is made of the parts goes without
    return None


def _parts(input: Tensor, dim: int = 0, *, each: Making) -> Each | None:
    size = input.shape[dim]
    return each(size, lambda number: input.select(dim, number)) if is_free(size) else None


def _slices(tensor: Tensor, split_size_or_sections: Any = None, dim: int = 0, *, each: Making, **other: Any) -> Each | None:
    length, size = other.get("split_size", split_size_or_sections), tensor.shape[dim]
    alone = isinstance(length, int) and length == 1 and is_free(size)
    return each(size, lambda number: tensor.narrow(dim, number, 1)) if alone else None


def is_free(size: Any) -> bool:
    """Whether a size is one of the inputs, and no number."""
    return _is_no_number(size) and not free_unbacked_symbols(size)


def _is_no_number(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


class _Kind(type):
    """Of what stands for a builtin class: its instances are that one's."""

    own: type

    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, cls.own)


@contextlib.contextmanager
def builtins_of_free_sizes(each: Making) -> Iterator[None]:
    """In this context ``range(size)`` of a size that is free, also from a start, and ``zip`` of such are what `each` makes."""

    class Range(metaclass=_Kind):
        own = own_range

        def __new__(cls, *bounds: Any) -> Any:
            start, stop = (0, *bounds) if len(bounds) == 1 else bounds if len(bounds) == 2 else (0, 0)
            if isinstance(start, int) and _is_no_number(stop) and not _asked_by_torch():
                return each(stop - start, lambda number: Number(start + number))
            return own_range(*bounds)

    class Zip(metaclass=_Kind):
        own = own_zip

        def __new__(cls, *several: Any, strict: bool = False) -> Any:
            given = [_parts(one, each=each) or one if isinstance(one, Tensor) and one.dim() else one for one in several]
            free = [one for one in given if isinstance(one, Each)]
            if len(free) < 2 or len(free) < len(given):
                return own_zip(*several, strict=strict)
            if not all(statically_known_true(one.size == free[0].size) for one in free):
                raise TypeError("sequences side by side have other numbers of steps")
            return each(free[0].size, lambda number: tuple(one.at(number) for one in free))

    with replaced({(builtins, "range"): Range, (builtins, "zip"): Zip}):
        yield


def _asked_by_torch() -> bool:
    """Whether the range is one of torch's own, such as in a decomposition, which looks at each size."""
    return sys._getframe(2).f_code.co_filename.startswith(_TORCH)
