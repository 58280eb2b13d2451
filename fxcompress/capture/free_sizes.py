"""Which sizes of the inputs a trace leaves free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.fake import static_sizes

Dimensions = Sequence[frozenset[int]]
"""Of each flattened input the dimensions whose sizes are to be free."""


Ties = Sequence[Sequence[tuple[int, int]]]
"""Dimensions whose sizes are one and the same, each as the position of a flattened input and a dimension of it."""


def leading(example: ExampleInputs) -> Dimensions:
    """Dimension 0 of every input that agrees there with the first one."""
    return _of_size(example, 0, lambda d: d == 0)


def second(example: ExampleInputs) -> Dimensions:
    """Every dimension of the size that the first input of two dimensions has of its second: where a sequence comes first,
    a mask may have the batch in its first."""
    return _of_size(example, 1, lambda d: True)


def several(example: ExampleInputs) -> Dimensions:
    """Every dimension that has more than one of what it counts: a size of 1 is taken for one that is meant to be 1."""
    leaves = (leaf for _, leaf in example.leaves())
    return [
        frozenset(d for d, held in enumerate(leaf.shape) if held > 1) if isinstance(leaf, Tensor) else frozenset()
        for leaf in leaves
    ]


def lengths(example: ExampleInputs) -> Dimensions:
    """As `several`, without the dimensions of pictures: networks of one size of picture are faster, and few see another."""
    pictured = {id(leaf) for leaf in _pictures(example)}
    leaves = (leaf for _, leaf in example.leaves())
    return [frozenset() if id(leaf) in pictured else free for leaf, free in zip(leaves, several(example), strict=True)]


def has_pictures(example: ExampleInputs) -> bool:
    return bool(_pictures(example))


def _pictures(example: ExampleInputs) -> list[Tensor]:
    """Inputs of floats in four or more dimensions that stand by themselves: those in containers are keys and values."""
    alone = [*example.args, *example.kwargs.values()]
    return [one for one in alone if isinstance(one, Tensor) and one.is_floating_point() and one.dim() >= 4]


def fixed_beside_free(graph: fx.Graph, example: ExampleInputs) -> list[str]:
    """The inputs whose first size is that of the first input, and a number in `graph` where those of others are free."""
    inputs = zip(graph.find_nodes(op="placeholder"), leading(example), strict=True)
    sizes = {node.name: static_sizes(node.meta["val"].shape)[0] for node, free in inputs if free}
    fixed = [name for name, size in sizes.items() if isinstance(size, int)]
    return fixed if len(fixed) < len(sizes) else []


def both(one: Dimensions, other: Dimensions) -> Dimensions:
    return [a | b for a, b in zip(one, other, strict=True)]


def without(one: Dimensions, other: Dimensions) -> Dimensions:
    return [a - b for a, b in zip(one, other, strict=True)]


def widened(example: ExampleInputs, dimensions: Dimensions) -> ExampleInputs:
    """`example` with two instead of one in `dimensions`: torch.export takes a size of 1 for a constant."""
    leaves, form = pytree.tree_flatten((example.args, example.kwargs))

    def widen(leaf: Any, free: frozenset[int]) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        for d in free:
            leaf = torch.cat([leaf] * 2, d) if leaf.shape[d] == 1 else leaf
        return leaf.detach()  # a tensor of our own: torch.export leaves marks on it

    return ExampleInputs(*pytree.tree_unflatten(map(widen, leaves, dimensions), form))


def dynamic_shapes(model: nn.Module, example: ExampleInputs, dimensions: Dimensions, kind: Any = Dim.AUTO) -> Any:
    """As torch.export takes them, for `dimensions` of `example`."""
    shapes = ShapesCollection()
    for (_, leaf), free in zip(example.leaves(), dimensions, strict=True):
        if free:
            shapes[leaf] = dict.fromkeys(free, kind)
    return shapes.dynamic_shapes(model, example.args, example.kwargs)


@contextmanager
def tied(model: nn.Module, ties: Ties) -> Iterator[None]:
    """Calls of `model`, in which a trace learns that sizes are the same."""
    if not ties:
        yield
        return

    def check(module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        for (position, dimension), *others in ties:
            for other, its_dimension in others:
                torch._check(leaves[position].shape[dimension] == leaves[other].shape[its_dimension])

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def are_free(program: ExportedProgram) -> bool:
    """Whether some size of an input of `program` is free."""
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    return any(not isinstance(size, int) for v in values if isinstance(v, Tensor) for size in static_sizes(v.shape))


def _of_size(example: ExampleInputs, dimension: int, among: Any) -> Dimensions:
    """The dimensions, `among` some, of the size of `dimension` of the first tensor that has it."""
    leaves = [leaf for _, leaf in example.leaves()]
    size = next((x.shape[dimension] for x in leaves if isinstance(x, Tensor) and x.dim() > dimension), None)
    return [
        frozenset(d for d, held in enumerate(leaf.shape) if held == size and among(d))
        if isinstance(leaf, Tensor)
        else frozenset()
        for leaf in leaves
    ]
