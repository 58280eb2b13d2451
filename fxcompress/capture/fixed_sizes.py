"""Notes of the sizes of inputs that a graph has as numbers, though they would be meant to be free."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fxcompress.capture.true_sizes import runs
from fxcompress.data.batch import Batch
from fxcompress.data.caches import tensors_of_caches
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.sized import sized_inputs
from fxcompress.ir.fake import describe_sizes, static_sizes


def fixed_sizes(graph: fx.Graph, model: nn.Module, example: ExampleInputs, *, sides: bool) -> list[str]:
    """Notes of the sizes of inputs that `graph` of `model` has as numbers; of those of pictures with `sides` alone."""
    return [
        *fixed_lengths(graph, example),
        *fixed_features(graph, model, Batch.of(graph).first(example, 2)),
        *(fixed_sides(graph, example) if sides else ()),
    ]


def fixed_lengths(graph: fx.Graph, example: ExampleInputs) -> list[str]:
    """A note of the inputs of integers, tokens and masks of them, whose lengths `graph` has as numbers."""
    told: dict[int, list[str]] = {}
    leaves = [leaf for _, leaf in example.leaves()]
    for node, leaf in zip(graph.find_nodes(op="placeholder"), leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.dim() == 2 and not (leaf.is_floating_point() or leaf.is_complex()):
            batch, length = (isinstance(size, int) for size in static_sizes(node.meta["val"].shape))
            if length and not batch and leaf.shape[1] > 1:
                told.setdefault(leaf.shape[1], []).append(node.name)
    return [
        f"{', '.join(names)}: the length is fixed to {length}, that of the example inputs, since forward needs it as a number, "
        "as a loop over tokens does, or does something else at others; give an example as long as the file is to take, and pad"
        for length, names in told.items()
    ]


def fixed_sides(graph: fx.Graph, example: ExampleInputs) -> list[str]:
    """A note of the inputs of four or more dimensions, features or pictures, of which `graph` has sides as numbers.

    Where dimension 1 is free, channels come last, and the last dimension is fixed by the weights that it is multiplied by.
    """
    cached = {id(tensor) for tensor in tensors_of_caches((example.args, example.kwargs))}
    told = []
    for node, (_, leaf) in zip(graph.find_nodes(op="placeholder"), example.leaves(), strict=True):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.dim() < 4 or id(leaf) in cached:
            continue
        fixed = [isinstance(size, int) for size in static_sizes(node.meta["val"].shape)]
        sides = range(2, leaf.dim()) if fixed[1] else range(1, leaf.dim() - 1)
        if any(fixed[d] and leaf.shape[d] > 1 for d in sides):
            told.append(
                f"{node.name}: forward needs sizes of {describe_sizes(node.meta['val'])} as numbers, those of the example "
                "inputs, or does something else at others: give an example of the size that it is to be used at"
            )
    return told


def fixed_features(graph: fx.Graph, model: nn.Module, example: ExampleInputs) -> list[str]:
    """A note of each input of floats in two or three dimensions that `graph` takes in one size, where `model` takes others.

    What the model does not take is fixed by its weights, as the width of features is. So is a size that a weight has: a forward
    that views its input as rows of that width takes two rows in the place of one.
    """
    inputs = [
        (node, leaf)
        for node, leaf in zip(graph.find_nodes(op="placeholder"), _leaves(example), strict=True)
        if isinstance(leaf, Tensor)
    ]
    widths = {size for one in [*model.parameters(), *model.buffers()] for size in one.shape}
    declared = [_declared(node, leaf, position, widths) for position, (node, leaf) in enumerate(inputs)]
    told = {size for (_, leaf), shape in zip(inputs, declared, strict=True) for size in shape if leaf.is_floating_point()}
    _, others = sized_inputs(declared, example)
    taken = {
        size
        for size, ways in others
        if size in told and any(runs(model, leaves, example) for several in ways for leaves in several)
    }
    return [
        f"{node.name}: sizes of {describe_sizes(node.meta['val'])} are fixed to those of the example inputs, since forward "
        "needs them as numbers, or does something else at others; give an example as long as the file is to take, and pad"
        for (node, _), shape in zip(inputs, declared, strict=True)
        if taken.intersection(shape)
    ]


def _declared(node: fx.Node, leaf: Tensor, position: int, widths: set[int]) -> list[int | str]:
    """The shape of an input, with names for its sizes behind the first that are numbers in the graph, and not of `widths` or 1.

    Pictures have none.
    """
    if not 2 <= leaf.dim() <= 3:
        return list(leaf.shape)
    shape = enumerate(zip(leaf.shape, static_sizes(node.meta["val"].shape), strict=True))
    return [
        f"fixed{position}_{d}" if d > 0 and held > 1 and held not in widths and isinstance(size, int) else held
        for d, (held, size) in shape
    ]


def _leaves(example: ExampleInputs) -> list[Any]:
    return [leaf for _, leaf in example.leaves()]
