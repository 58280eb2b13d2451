"""What reshapes do to channels: axes are split into factors, and runs of factors with equal products correspond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sympy

from fxcompress.channels.call import Axes, Axis, Call, rule


@dataclass(frozen=True)
class _Factor:
    """A factor of the size of dimension `dim`: a number, or a free size."""

    axis: Axis
    dim: int

    @property
    def size(self) -> Any:
        return self.axis.size


@rule("reshape flatten view unflatten")
def _reshape(call: Call) -> Axes:
    """One axis is split, several are merged, or else they are fixed."""
    x, shape = call.operands[0], call.result.shape
    old = [factor for dim, axis in enumerate(x.axes) for factor in _factors(dim, axis)]
    new = [factor for dim, size in enumerate(shape) for factor in _factors(dim, Axis(size))]
    result = [Axis(size) for size in shape]
    for before, after in _runs(old, new):
        for factor, axis in zip(after, _correspond(call, before, after)):
            if axis.ids is not None:
                result[factor.dim] = Axis(shape[factor.dim], axis.ids, axis.numbers)
    return result


def _factors(dim: int, axis: Axis) -> list[_Factor]:
    """The factors of an axis, slowest first; without those of size one."""
    if axis.fixed:
        return [_Factor(axis, dim)] if axis.size != 1 else []
    expression = sympy.sympify(axis.size.node.expr)
    factor, rest = expression.as_coeff_Mul()
    if not factor.is_Integer or factor == 1:
        return [_Factor(Axis(expression), dim)]
    periodic = axis.ids is not None and len(axis.ids) == factor
    inner = Axis(int(factor), axis.ids, axis.numbers) if periodic else Axis(int(factor))
    return [_Factor(Axis(rest), dim), _Factor(inner, dim)]


def _runs(old: Sequence[_Factor], new: Sequence[_Factor]) -> list[tuple[list[_Factor], list[_Factor]]]:
    """Corresponding runs of factors: equal ones from the front, then the shortest from the back; last what is left."""
    old, new, runs = list(old), list(new), []
    while old and new and old[0].size == new[0].size:
        runs.append(([old.pop(0)], [new.pop(0)]))
    while old and new:
        before, after = [old[-1]], [new[-1]]
        if before[0].size == after[0].size:
            runs.append(([old.pop()], [new.pop()]))
            continue
        while (left := _size(before)) != (right := _size(after)) or not left:
            shorter, pool = (before, old) if left < right else (after, new)
            if not left or not right or len(shorter) == len(pool):
                return [*runs, (old, new)]
            shorter.insert(0, pool[-len(shorter) - 1])
        del old[-len(before) :], new[-len(after) :]
        runs.append((before, after))
    return [*runs, (old, new)] if old or new else runs


def _size(factors: Sequence[_Factor]) -> int:
    """Of their sizes; 0 where one is free."""
    return math.prod(factor.size for factor in factors) if all(factor.axis.fixed for factor in factors) else 0


def _correspond(call: Call, before: list[_Factor], after: list[_Factor]) -> Axes:
    """The axes of the factors `after`, which hold the same numbers as `before`."""
    cuts = sorted({*_cuts(before), *_cuts(after)})
    nested = _size(before) == _size(after) != 0 and not any(larger % smaller for smaller, larger in pairwise(cuts))
    if not nested:
        call.pin((factor.axis for factor in before), "axes are cut across")
        return [Axis(factor.size) for factor in after]
    atoms: Axes = []
    for factor, inner in zip(before, _cuts(before)):
        atoms += call.split(factor.axis, _between(cuts, inner, factor.size))
    result = []
    for factor, inner in zip(after, _cuts(after)):
        count = len(_between(cuts, inner, factor.size))
        result.append(call.merge(atoms[:count]))
        del atoms[:count]
    return result


def _cuts(factors: Sequence[_Factor]) -> list[int]:
    """For each factor the product of the sizes behind it."""
    return [_size(factors[position + 1 :]) for position in range(len(factors))]


def _between(cuts: Sequence[int], inner: int, size: int) -> list[int]:
    """The sizes that a factor of `size`, with `inner` behind it, is cut into, slowest first."""
    inside = [inner, *(cut for cut in cuts if inner < cut < inner * size), inner * size]
    return [larger // smaller for smaller, larger in pairwise(inside)][::-1]
