"""Example inputs in every size that a graph or a file leaves free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs


def sized_inputs(declared: Iterable[Sequence[Any]], example: ExampleInputs) -> Iterator[list[list[Any]]]:
    """Flat inputs of a graph whose inputs, those that are tensors, have the `declared` shapes: the example, then other sizes,
    one by one.

    Each item is a list of alternatives, of which the first that the model takes will do. A size is told by its name, wherever
    it occurs. Samples, or whatever a dimension counts, are left out or repeated; what is fixed in the file is as it says.
    """
    leaves = pytree.tree_leaves((example.args, example.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    shapes = [[_size(dimension) for dimension in shape] for shape in declared]
    given: dict[str, int] = {}
    for tensor, shape in zip(tensors, shapes, strict=True):
        for size, known in zip(tensor.shape, shape):
            if isinstance(known, str):
                given.setdefault(known, size)

    def sized(**changed: int) -> list[Any]:
        cut = iter([_cut(tensor, shape, given | changed) for tensor, shape in zip(tensors, shapes)])
        return [next(cut) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    yield [sized()]
    computed = " ".join(name for name in given if not name.isidentifier())  # sizes that others follow from stay
    for name, size in given.items():
        if name.isidentifier() and not re.search(rf"\b{name}\b", computed):
            yield [sized(**{name: other}) for other in _others(size)]


def _size(dimension: Any) -> int | str:
    return dimension if isinstance(dimension, int) else str(getattr(dimension, "value", dimension))


def _others(size: int) -> tuple[int, ...]:
    """Other sizes to try: one sample where there are two, else one more, or as many again where sizes must be divisible."""
    return (1, 3, 4) if size == 2 else (size + 1, 2 * size)


def _cut(tensor: Tensor, shape: Sequence[int | str], sizes: dict[str, int]) -> Tensor:
    for axis, known in enumerate(shape):
        size = known if isinstance(known, int) else sizes[known]
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor.contiguous()
