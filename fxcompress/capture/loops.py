"""Loops over the steps of a sequence, traced as two of them: `fxcompress.capture.rolled` makes one operation of these.

torch.export would run ``for step in range(x.shape[1])`` as often as the example has steps, and fix their number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxcompress.capture.each_step import Each, Number, builtins_of_free_sizes, own_range, taken_apart
from fxcompress.capture.written_out import written_out

TRIED = 2
"""How many steps are traced: what differs between two of them is what a step reads at its place and what it carries on."""

_LIBRARY = torch.library.Library("fxcompress", "FRAGMENT")
_LIBRARY.define("step_ends(SymInt count, int number, Tensor[] made) -> ()")
_LIBRARY.define("gathered_steps(Tensor[] several, SymInt count, int along) -> Tensor")
_LIBRARY.impl("step_ends", lambda count, number, made: None, "CompositeExplicitAutograd")


def _gathered(several: Sequence[Tensor], count: int, along: int) -> Tensor:
    shape = several[0].shape
    return several[0].new_empty([*shape[:along], count, *shape[along:]])


_LIBRARY.impl("gathered_steps", _gathered, "CompositeExplicitAutograd")

STEP_ENDS = torch.ops.fxcompress.step_ends.default
"""Stands before the first of the steps that were tried (`number` 0) and behind each of them; keeps what the step `made`."""
GATHERED_STEPS = torch.ops.fxcompress.gathered_steps.default
"""One value of each step along a new dimension, `count` of them, of which `several` are those of the steps that were tried."""

torch.fx.node.has_side_effect(STEP_ENDS)  # what marks a place in a graph is not to be swept out of it

_JOINS = {torch.stack: False, torch.cat: True, torch.concat: True, torch.concatenate: True}
"""What puts a list of tensors together, and whether along a dimension that they have."""

_FILLED = (torch.tensor, torch.as_tensor)
"""What makes a tensor of numbers."""


@dataclass(eq=False)
class _Loop:
    count: torch.SymInt
    made: list[list[Tensor]] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    def counts(self, several: Sequence[Any]) -> bool:
        """Whether `several` are the numbers of its steps."""
        return len(several) == len(self.numbers) and all(one is number for one, number in zip(several, self.numbers))

    def runs_through(self, several: Sequence[Any]) -> bool:
        """Whether `several` has one value of each step: what it made, or what it was given by the one before."""
        if len(several) != len(self.made) or len(self.made) != TRIED or not all(isinstance(one, Tensor) for one in several):
            return False
        first, second = ([any(one is tensor for tensor in made) for made in self.made] for one in several)
        return (first[0] and second[1]) or (second[0] and not any(first))


class LoopsOverSteps(TorchFunctionMode):
    """In this mode a loop over ``range(size)`` of a size that is free, or over as many parts of a tensor, runs `TRIED` times.

    It marks their ends in the trace.

    Attributes:
        met: whether there was one.
    """

    met = False

    def __init__(self) -> None:
        super().__init__()
        self._running: list[_Loop] = []
        self._ended: list[_Loop] = []
        self._ranges = contextlib.ExitStack()
        self._written = written_out()

    def __enter__(self) -> LoopsOverSteps:
        if not self._written.ranges:
            self._ranges.enter_context(builtins_of_free_sizes(self._each))
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self._ranges.close()

    def _each(self, count: Any, at: Callable[[int], Any]) -> Each:
        self.met = True  # also where nobody goes through it, but asks how long it is
        return Each(count, at, self._steps)

    def _steps(self, each: Each) -> Iterator[Any]:
        loop = _Loop(each.size)
        STEP_ENDS(loop.count, 0, [])
        self._running.append(loop)
        for number in own_range(TRIED):
            loop.made.append([])
            value = each.at(number)
            loop.made[-1] += _tensors(value)
            loop.numbers += [value] if isinstance(value, Number) else []
            yield value
            STEP_ENDS(loop.count, number + 1, loop.made[-1])
        self._running.remove(loop)
        self._ended.append(loop)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._written.parts and (apart := taken_apart(func, args, kwargs, self._each)):
            self._written.apart = True
            return apart
        result = self._joined(*args, along=_JOINS[func], **kwargs) if func in _JOINS else None
        if func in _FILLED and args:
            result = self._counted(*args, **kwargs)
        if result is None:
            if any(isinstance(one, Each) for one in args):
                raise TypeError("torch is given a sequence whose length is free")  # which it would take for an empty one
            result = func(*args, **kwargs)
        for loop in self._running:
            loop.made[-1] += _tensors(result)
        return result

    def _counted(self, data: Any, **options: Any) -> Tensor | None:
        """The numbers of all steps of a loop, forwards or backwards, as a tensor; None where they are something else."""
        several = [*data] if isinstance(data, list | tuple | Each) else []
        for numbers, back in (several, False), (several[::-1], True):
            loop = next((one for one in self._ended if numbers and one.counts(numbers)), None)
            if loop is not None:
                found = torch.arange(int(numbers[0]), numbers[0] + loop.count, **options)
                return found.flip(0) if back else found
        return None

    def _joined(self, tensors: Any, dim: int = 0, *, along: bool, **others: Any) -> Tensor | None:
        """`tensors` of all steps of a loop together; None where they are something else."""
        several = [*tensors] if isinstance(tensors, list | tuple | Each) else []
        loop = next((one for one in self._ended if one.runs_through(several)), None)
        if loop is None or others:
            return None
        dim %= several[0].dim() + (not along)
        found = GATHERED_STEPS(list(several), loop.count, dim)
        return found.flatten(dim, dim + 1) if along else found


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(values) if isinstance(one, Tensor)]
