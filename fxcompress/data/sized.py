"""Example inputs in every size that a graph or a file leaves free."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs

Inputs = list[Any]
"""The flattened inputs of one call."""


def sized_inputs(
    declared: Iterable[Sequence[Any]], example: ExampleInputs, at: Mapping[str, Sequence[int]] | None = None
) -> tuple[Inputs, Iterator[tuple[str, list[list[Inputs]]]]]:
    """Flat inputs of a graph whose inputs, those that are tensors, have the `declared` shapes: the example, and, for one free
    size after another, its name and other sizes.

    Of each other size there are several ways to have it, of which the first that the model takes is the one to try: with the
    sizes that are sums of others in the example still being that (a mask's length, of what was read before and what is read
    now); alone; and along with all that have the same size in the example. A size is told by its name, wherever it occurs.
    Samples, or whatever a dimension counts, are left out or repeated; what is fixed in the file is as it says.

    Args:
        at: the other sizes, by the names of those that are to have some; None for some that are near those of the example.
    """
    leaves = pytree.tree_leaves((example.args, example.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    beside = zip(tensors, declared, strict=True)
    shapes = [list(map(_size, shape[: tensor.dim()])) for tensor, shape in beside]  # without the pairs of complex ones
    given: dict[str, int] = {}
    for tensor, shape in zip(tensors, shapes):
        for size, known in zip(tensor.shape, shape):
            if isinstance(known, str):
                given.setdefault(known, size)

    def sized(sizes: dict[str, int]) -> Inputs:
        cut = iter([_cut(tensor, shape, sizes) for tensor, shape in zip(tensors, shapes)])
        return [next(cut) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def others() -> Iterator[tuple[str, list[list[Inputs]]]]:
        computed = " ".join(name for name in given if not name.isidentifier())  # sizes that others follow from stay
        for name, size in given.items():
            if name.isidentifier() and not re.search(rf"\b{name}\b", computed):
                others = _others(size) if at is None else at.get(name, ())
                yield name, [list(map(sized, _ways(given, name, other))) for other in others]

    return sized(given), others()


def _size(dimension: Any) -> int | str:
    return dimension if isinstance(dimension, int) else str(getattr(dimension, "value", dimension))


def _others(size: int) -> tuple[int, ...]:
    """Other sizes to try: one sample where there are two, else one more, or as many again where sizes must be divisible."""
    return (1, 3, 4) if size == 2 else (size + 1, 2 * size)


def _ways(given: dict[str, int], name: str, size: int) -> Iterator[dict[str, int]]:
    """The sizes with `size` for `name`: with sums kept, alone, and with all that are as large."""
    alone, alike = given | {name: size}, [other for other in given if other.isidentifier() and given[other] == given[name]]
    ways = [_with_sums(given, alone, {name}), alone]
    ways += [_with_sums(given, given | dict.fromkeys(alike, size), set(alike))] if len(alike) > 1 else []
    yield from (way for position, way in enumerate(ways) if way not in ways[:position])


def _with_sums(given: dict[str, int], sizes: dict[str, int], fixed: Collection[str]) -> dict[str, int]:
    """`sizes`, but for those that are the sum of two others in `given`: they are the sum of what these have become."""
    found = dict(sizes)
    given = {name: size for name, size in given.items() if name.isidentifier()}
    for total in sorted(given, key=given.__getitem__):
        for one, other in combinations([name for name in given if name != total], 2):
            grown = found[one] + found[other]
            if total not in fixed and given[one] + given[other] == given[total] != grown:
                found[total] = grown
                break
    return found


def _cut(tensor: Tensor, shape: Sequence[int | str], sizes: dict[str, int]) -> Tensor:
    for axis, known in enumerate(shape):
        size = known if isinstance(known, int) else sizes[known]
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor.contiguous()
