"""Whether a model's outputs are without what lies in the padding of a sequence: tried on the graph.

No name tells a mask. An input of zeros and ones is one if the last places, where it is zero there, may hold anything and may
as well not be there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.capture.batch import close, free_sizes, graph_outputs
from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.padding import Padding

_SHARE = 4
"""One in so many places of the example stays, and the others are taken for padding: a maximum over all would be one of them."""

_AGREEMENT = 1e-5
"""How far outputs may be apart, in terms of the largest: kernels round in another order for another number of places."""


def note_padding(graph_module: fx.GraphModule, example: ExampleInputs) -> None:
    """Mark where padding lies in the inputs of the captured `graph_module`, tried on the first sample of `example`.

    Nowhere, if no free size but the batch is that of a sequence, or if outputs have that size: they have places of padding
    then, and nobody has said that these are not read.
    """
    batch = Batch.of(graph_module.graph)
    sample = batch.cut([leaf for _, leaf in example.leaves()], 0, 1) if batch.is_free else []
    found = _candidates(graph_module.graph, batch, sample) if sample else ()
    if (padding := next((one for one in found if _does_nothing(graph_module, one, sample)), None)) is not None:
        padding.mark(graph_module.graph)


def _candidates(graph: fx.Graph, batch: Batch, sample: Leaves) -> Iterator[Padding]:
    sizes = [free_sizes(node) for node in graph.find_nodes(op="placeholder")]
    returned = [free_sizes(node) for node in pytree.tree_leaves(graph.output_node().args) if isinstance(node, fx.Node)]
    seen = {symbol for of_output in returned for size in of_output.values() for symbol in size.free_symbols}
    known = dict.fromkeys(size for of_input in sizes for size in of_input.values() if size.is_Symbol and size not in seen)
    for size in known:
        places = [[d for d, one in of_input.items() if size in one.free_symbols] for of_input in sizes]
        whole = all(of_input[d] == size for of_input, found in zip(sizes, places) for d in found)
        if not whole or any(len(found) > 1 for found in places):
            continue
        dimensions = tuple(found[0] if found else None for found in places)
        for index, leaf in enumerate(sample):
            lies = dimensions[index], batch.dimensions[index]
            if None not in lies and lies[0] != lies[1] and _may_be_mask(leaf):
                yield Padding(dimensions, index)


def _may_be_mask(leaf: Tensor) -> bool:
    return bool(((leaf == 0) | (leaf == 1)).all()) and bool(leaf.any())


@torch.no_grad()
def _does_nothing(graph_module: fx.GraphModule, padding: Padding, sample: Leaves) -> bool:
    """Whether the outputs are the same without the last places, and with anything there that the mask does not count."""
    length = sample[padding.mask].shape[padding.dimensions[padding.mask]]
    kept = max(length // _SHARE, 1)
    if kept == length or not (alone := padding.resized(sample, kept))[padding.mask].any():
        return False
    try:
        expected = graph_outputs(graph_module, alone)
        for seed in range(2):
            found = graph_outputs(graph_module, _filled(padding, alone, sample, length, seed))
            if not all(close(one, other, _AGREEMENT) for one, other in zip(expected, found, strict=True)):
                return False
    except (RuntimeError, IndexError):  # a length that must be even, or one that something else depends on
        return False
    return True


def _filled(padding: Padding, alone: Leaves, sample: Leaves, length: int, seed: int) -> Leaves:
    """`alone`, of `length` places again: the mask counts none of the new ones, where the others have values of `sample`."""
    random = torch.Generator().manual_seed(seed)
    filled = padding.resized(alone, length)
    for index, (leaf, dimension) in enumerate(zip(filled, padding.dimensions, strict=True)):
        if dimension is not None and index != padding.mask:
            values = sample[index].unique()
            new = leaf.narrow(dimension, (kept := alone[index].shape[dimension]), length - kept)
            new.copy_(values[torch.randint(len(values), new.shape, generator=random)])
    return filled
