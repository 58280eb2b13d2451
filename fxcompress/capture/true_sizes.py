"""Which of the sizes that a trace left free are free in truth: the graph computes what the model computes at others too.

A trace follows the branches of the example. Where a model does something else with an odd height, say, the graph is of the
even ones only, and nothing in it tells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.capture.batch import close, graph_outputs
from fxcompress.capture.free_sizes import Dimensions, Ties
from fxcompress.capture.traceable import plain_kernels
from fxcompress.capture.twin import unwritten
from fxcompress.data.batch import Batch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.returned import put_together
from fxcompress.data.sized import sized_inputs
from fxcompress.ir.fake import static_sizes

_LEAST = 2
"""What every free size is at least: torch traces sizes of one and of none as such."""
_MOST = 4096
"""Of sizes that are tried."""


def untrue(
    graph_module: fx.GraphModule, model: nn.Module, example: ExampleInputs
) -> tuple[Dimensions, Ties, ExampleInputs | None]:
    """The dimensions of each flattened input that are free in `graph_module`, but at another size it is not `model`; those
    that it has free of each other, but must be the same: the length of a mask, which the model would make fit; and inputs of
    `model` at which it is not that, if any.

    Sizes at which the model itself fails tell nothing, nor does a size of one, which torch broadcasts. The number of samples
    has been tried already, where it was found.
    """
    inputs, batch = graph_module.graph.find_nodes(op="placeholder"), Batch.of(graph_module.graph)
    leaves = [leaf for _, leaf in example.leaves()]
    shapes = list(map(_declared, inputs, leaves, batch.dimensions))
    same, others = sized_inputs([shape for shape in shapes if shape is not None], example)
    wrong: set[str] = set()
    ties: set[frozenset[str]] = set()
    other: ExampleInputs | None = None
    for name, alternatives in others:
        for ways in alternatives:
            changes = [(leaves, _changed(shapes, same, leaves)) for leaves in ways]
            tried = [
                (leaves, set(change), _agrees(graph_module, leaves, expected))
                for leaves, change in changes
                if 1 not in change.values() and (expected := _outputs(model, leaves, example)) is not None
            ]
            if tried and not tried[0][2]:
                right = next((names for _, names, agrees in tried if agrees and len(names) > 1), None)
                ties |= {frozenset(right)} if right else set()
                wrong |= set() if right else {name}
                other = other or (None if right else _inputs(tried[0][0], example))
    dimensions = [(position, d, size) for position, shape in enumerate(shapes) for d, size in enumerate(shape or ())]
    return (
        [frozenset(d for p, d, size in dimensions if p == position and size in wrong) for position in range(len(shapes))],
        [[(position, d) for position, d, size in dimensions if size in tie] for tie in ties],
        other,
    )


def bounded(graph_module: fx.GraphModule, model: nn.Module, example: ExampleInputs) -> list[str]:
    """What to tell of sizes that a branch of `model` bounds: beyond them it computes something else than `graph_module`.

    A trace knows its bounds, most of which are those of layers: beyond them the model fails as well.
    """
    inputs, batch = graph_module.graph.find_nodes(op="placeholder"), Batch.of(graph_module.graph)
    shapes = list(map(_declared, inputs, [leaf for _, leaf in example.leaves()], batch.dimensions))
    at, told = _just_beyond(inputs), []
    for name, alternatives in sized_inputs([shape for shape in shapes if shape is not None], example, at)[1]:
        for (leaves, *_), beyond in zip(alternatives, at[name]):
            expected = _outputs(model, leaves, example)
            if expected is not None and not _agrees(graph_module, leaves, expected):
                position, shape = next((i, shape) for i, shape in enumerate(shapes) if shape and name in shape)
                told.append(
                    f"{inputs[position].name}: forward does something else where size {shape.index(name)} is {beyond}, and the "
                    "graph is of that of the example: give an example of the size that it is to be used at"
                )
    return told


def _just_beyond(inputs: list[fx.Node]) -> dict[str, list[int]]:
    """Below the least and above the greatest value of each free size of `inputs`, by its name; not the very large."""
    values = [node.meta["val"] for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    free = {str(size.node.expr): size.node for value in values for size in value.shape if isinstance(size, torch.SymInt)}
    ranges = {name: node.shape_env.bound_sympy(node.expr) for name, node in free.items()}
    low = {name: [int(one.lower) - 1] if one.lower > _LEAST else [] for name, one in ranges.items()}
    high = {name: [int(one.upper) + 1] if one.upper < _MOST else [] for name, one in ranges.items()}
    return {name: low[name] + high[name] for name in free}


def computes(graph_module: fx.GraphModule, model: nn.Module, example: ExampleInputs) -> bool:
    """Whether `graph_module` computes of `example` what `model` does."""
    leaves = [leaf for _, leaf in example.leaves()]
    expected = _outputs(model, leaves, example)
    return expected is not None and _agrees(graph_module, leaves, expected)


def runs(model: nn.Module, leaves: list[Any], example: ExampleInputs) -> bool:
    """Whether `model` takes `leaves` in the form of `example`."""
    return _outputs(model, leaves, example) is not None


def is_of_one(graph_module: fx.GraphModule, model: nn.Module, example: ExampleInputs) -> bool:
    """Whether a graph with a free batch computes of a single sample what `model` does, where `example` is one.

    A trace with a free batch is one of several samples: a model that drops dimensions of one may drop that of a lone sample.
    """
    leaves = [leaf for _, leaf in example.leaves()]
    if Batch.of(graph_module.graph).count(leaves) != 1:
        return True
    expected = _outputs(model, leaves, example)
    return expected is None or _agrees(graph_module, leaves, expected)


def _declared(node: fx.Node, example: Any, samples: int | None) -> list[int | str] | None:
    """The shape of an input with names for its free sizes, but for that of the dimension `samples`; None of no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return [
        example.shape[d] if d == samples else size if isinstance(size, int) else str(size.node.expr)
        for d, size in enumerate(static_sizes(value.shape))
    ]


def _changed(shapes: list[list[int | str] | None], same: list[Any], leaves: list[Any]) -> dict[str, int]:
    """The free sizes in which `leaves` differ from those of the example, and what they are there."""
    return {
        size: after.shape[d]
        for shape, before, after in zip(shapes, same, leaves, strict=True)
        for d, size in enumerate(shape or ())
        if isinstance(size, str) and before.shape[d] != after.shape[d]
    }


def _inputs(leaves: list[Any], example: ExampleInputs) -> ExampleInputs:
    """`leaves` in the form of `example`."""
    return ExampleInputs(*pytree.tree_unflatten(leaves, pytree.tree_structure((example.args, example.kwargs))))


@torch.no_grad()
def _outputs(model: nn.Module, leaves: list[Any], example: ExampleInputs) -> list[Tensor] | None:
    """What `model` returns; None where it does not take such sizes."""
    given = _inputs(leaves, example).copy()
    try:
        with plain_kernels(), unwritten(model):
            outputs = model(*given.args, **given.kwargs)
    except Exception:
        return None
    return [value for value in pytree.tree_leaves(put_together(outputs)) if isinstance(value, Tensor)]


@torch.no_grad()
def _agrees(graph_module: fx.GraphModule, leaves: list[Any], expected: list[Tensor]) -> bool:
    try:
        computed = graph_outputs(graph_module, leaves)
    except Exception:
        return False
    return len(computed) == len(expected) and all(map(_alike, expected, computed))


def _alike(expected: Tensor, computed: Tensor) -> bool:
    """Whether the two are the same, as far as a model in half precision can be compared with a graph in single."""
    if expected.is_floating_point() and expected.dtype != computed.dtype:
        return expected.shape == computed.shape
    return close(expected, computed)
