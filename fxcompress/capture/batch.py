"""Where the samples lie in a model's inputs: found from the free sizes of the trace, and tried on the graph.

A free size is the batch where samples do not see one another: what the graph gives for one is the same with others beside it.
A sequence, or the nodes of a graph, fail at that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.inputs import ExampleInputs

_AGREEMENT = 1e-3
"""How far the outputs for a sample may be apart, in terms of the largest: kernels round in another order in a larger batch."""

_FEW = 0.1
"""The share of a sample's values that may be at a jump; what the number of samples changes is more."""

_AMONG, _PLACE = 4, 2
"""A sample is put among so many, at a place that is the same from neither end."""


def find_batch(graph_module: fx.GraphModule, example: ExampleInputs) -> Batch:
    """Where the samples lie in the inputs of the captured `graph_module`, tried on `example`."""
    leaves = [leaf for _, leaf in example.leaves()]
    for batch in _candidates(graph_module.graph):
        if _samples_are_apart(graph_module, batch, leaves):
            return batch
    return Batch((None,) * len(leaves))


def _candidates(graph: fx.Graph) -> Iterator[Batch]:
    """What could be the batch: all free first dimensions together, then each free size, those of first dimensions first."""
    inputs = [free_sizes(node) for node in graph.find_nodes(op="placeholder")]
    held: dict[sympy.Expr, list[int | None]] = {}
    mixed: set[sympy.Basic] = set()  # the number of samples is not to be read from such a size
    for position, sizes in enumerate(inputs):
        for dimension, size in sizes.items():
            if not size.is_Symbol or held.get(size, [None] * len(inputs))[position] is not None:
                mixed |= size.free_symbols
            held.setdefault(size, [None] * len(inputs))[position] = dimension
    known = [(symbol, found) for symbol, found in held.items() if symbol.is_Symbol and symbol not in mixed]
    known.sort(key=lambda one: min(d for d in one[1] if d is not None))
    first = [found for _, found in known if any(d == 0 for d in found)]
    if len(first) > 1:
        yield Batch(tuple(next((found[i] for found in first if found[i] is not None), None) for i in range(len(inputs))))
    for _, found in known:
        yield Batch(tuple(found))


def free_sizes(node: fx.Node) -> dict[int, sympy.Expr]:
    """The free sizes of the tensor that `node` gives, by dimension."""
    shape = value.shape if isinstance(value := node.meta.get("val"), Tensor) else ()
    return {d: sympy.sympify(size.node.expr) for d, size in enumerate(shape) if isinstance(size, torch.SymInt)}


@torch.no_grad()
def _samples_are_apart(graph_module: fx.GraphModule, batch: Batch, leaves: Leaves) -> bool:
    """Whether a sample of `leaves` gives the same alone and among others.

    Kernels round in another order in a larger batch, and a value at a jump of ``ceil`` or ``remainder`` then falls to its other
    side. So where few values differ, the sample is put among copies of itself: in a batch as large, kernels round alike.
    """
    if len({leaf.shape[d] for leaf, d in zip(leaves, batch.dimensions) if d is not None}) > 1:
        return False
    alone = batch.cut(leaves, 0, 1)
    around = [_another(batch, leaves, alone, by) for by in (1.0, -0.5, 1.0)]
    try:
        single = graph_outputs(graph_module, alone)
        among = graph_outputs(graph_module, batch.join([*around[:_PLACE], alone, *around[_PLACE:]]))
        different = _share_that_differs(single, among)
        if 0 < different <= _FEW:
            return _share_that_differs(single, among, graph_outputs(graph_module, batch.join([alone] * _AMONG))) == 0
    except (RuntimeError, IndexError):  # it is no sample: a size that must be even, or one of a sequence
        return False
    return different == 0


def _share_that_differs(single: list[Tensor], among: list[Tensor], copies: list[Tensor] | None = None) -> float:
    """The share of a sample's values that are others in `among` than in `single`, or than in `copies` where they are given."""
    growing = [i for i, (one, several) in enumerate(zip(single, among)) if one.shape != several.shape] or range(len(single))
    pairs = [
        (single[i] if copies is None else _at_its_place(single[i], copies[i]), _at_its_place(single[i], among[i]))
        for i in growing
    ]
    values = sum(expected.numel() for expected, _ in pairs)
    return sum(int((~_near(expected, found)).sum()) for expected, found in pairs) / max(values, 1)


def graph_outputs(graph_module: fx.GraphModule, leaves: Leaves) -> list[Tensor]:
    """The tensors that the captured `graph_module` returns for the flattened inputs `leaves`.

    Raises:
        RuntimeError: it does not run on them, for whatever reason: of torch's operations some raise one kind, some another.
    """
    given = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    try:
        outputs = fx.Interpreter(graph_module).run(*given, enable_io_processing=False)
    except Exception as problem:
        raise RuntimeError(f"the graph does not run on other sizes than its own: {problem}") from problem
    return [value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor)]


def _another(batch: Batch, leaves: Leaves, sample: Sequence[Any], by: float) -> Leaves:
    """A sample unlike `sample`, the first one of `leaves`, of values that it could have: floats are noise off, `by` times.

    Integers are those of the second sample, where they differ: numbers that belong together, such as the corners of a box,
    do so there too. Else the places of the first are taken in reverse, each as it is.
    """
    generator = torch.Generator().manual_seed(0)

    def other(leaf: Tensor, all_of_it: Tensor, dimension: int) -> Tensor:
        if leaf.is_floating_point():
            spread = leaf.std(correction=0).nan_to_num(1.0, 1.0) + leaf.new_tensor(1e-2)
            return leaf + by * torch.randn(leaf.shape, generator=generator).to(leaf) * spread
        second = all_of_it.narrow(dimension, 1, 1) if all_of_it.shape[dimension] > 1 else leaf
        return leaf.flip(_places(leaf)) if torch.equal(second, leaf) else second

    return [one if d is None else other(one, whole, d) for one, whole, d in zip(sample, leaves, batch.dimensions)]


def _places(sample: Tensor) -> list[int]:
    """The first dimension in which `sample` has several values."""
    return [dimension for dimension, size in enumerate(sample.shape) if size > 1][:1]


def _at_its_place(single: Tensor, among: Tensor) -> Tensor:
    """The sample's part of `among`, along the dimensions that are `_AMONG` times as large as in `single`.

    Raises:
        IndexError: some size is neither that nor the same.
    """
    if single.dim() != among.dim() or any(s not in (one, _AMONG * one) for one, s in zip(single.shape, among.shape)):
        raise IndexError("no part of it is the sample's")
    for dimension, size in enumerate(single.shape):
        among = among if among.shape[dimension] == size else among.narrow(dimension, _PLACE * size, size)
    return among


def close(left: Tensor, right: Tensor, within: float = _AGREEMENT) -> bool:
    """Whether two outputs are the same but for the order in which kernels round, which is `within` a share of the largest."""
    if left.shape != right.shape:
        return False
    return bool(_near(left, right, within).all())


def _near(left: Tensor, right: Tensor, within: float = _AGREEMENT) -> Tensor:
    """For each value whether it is the same but for rounding."""
    if not left.is_floating_point():
        return left == right
    finite = left[left.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    return torch.isclose(left, right, rtol=0.0, atol=within * scale, equal_nan=True)
