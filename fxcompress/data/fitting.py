"""Whether a batch of data fits the inputs that a captured graph takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.data.batch import Batch, leading_size
from fxcompress.data.inputs import ExampleInputs, check_batches, describe_value
from fxcompress.errors import InputError


def fitting(
    data: Iterable[Any], example: ExampleInputs, graph: fx.Graph, note: Callable[[str], None] = lambda text: None
) -> Iterator[ExampleInputs]:
    """The inputs in each batch of `data`, checked against `graph`, which was captured with `example`.

    A batch of another number of samples than the graph is fixed to, such as the last one of a loader, is left out, which
    `note` is told.

    Raises:
        InputError: a batch does not fit, or none has as many samples as the graph is fixed to.
    """
    check_batches(data)
    told, fits = "", False
    for batch in data:
        inputs = aligned(batch, example)
        partial = _partial(inputs, example, graph)
        if partial is None:
            fits = True
            yield checked(inputs, example, graph)
        elif not told:
            told = partial
            note(f"batches are left out: {partial}")
    if told and not fits:
        raise InputError(f"no batch of the data can be run: {told}; let every batch have as many")


def batch_inputs(batch: Any, example: ExampleInputs, graph: fx.Graph) -> ExampleInputs:
    """The part of a data `batch` that is the inputs of `graph`, which was captured with `example`.

    Sizes that are free in the graph may differ.

    Raises:
        InputError: wrong number of inputs, shape, dtype, device or constant; says which, expected against got.
    """
    return checked(aligned(batch, example), example, graph)


def checked(inputs: ExampleInputs, example: ExampleInputs, graph: fx.Graph) -> ExampleInputs:
    """`inputs`, once it is known that `graph` takes them; see `batch_inputs`."""
    expected, got = example.leaves(), inputs.leaves()
    if [name for name, _ in expected] != [name for name, _ in got]:
        raise InputError(f"a batch of data has the structure {inputs!r}, but the model was given {example!r}")
    batch = Batch.of(graph)
    for (name, want), (_, have), free, dimension in zip(expected, got, _free_sizes(graph), batch.dimensions, strict=True):
        problem = _mismatch(want, have, free, dimension)
        if problem:
            raise InputError(f"{name} of a batch of data: {problem}")
    return inputs


def aligned(batch: Any, example: ExampleInputs) -> ExampleInputs:
    """`batch` arranged as `example` is: by position, by name, or both."""
    positions, names = len(example.args), list(example.kwargs)
    if isinstance(batch, ExampleInputs):
        return batch
    if isinstance(batch, Mapping):
        if positions and not (positions == 1 and isinstance(example.args[0], Mapping)):
            raise InputError(
                f"a batch of data is a dict with the keys {sorted(map(str, batch))}, but the model was given "
                f"{positions} positional inputs; let the batches be tuples, or pass example_inputs as a dict"
            )
        if positions:
            return ExampleInputs((batch,))
        missing = [name for name in names if name not in batch]
        if missing:
            raise InputError(f"a batch of data lacks {', '.join(missing)}; it has the keys {sorted(map(str, batch))}")
        return ExampleInputs((), {name: batch[name] for name in names})
    items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if len(items) < positions + len(names):
        raise InputError(
            f"a batch of data holds {len(items)} inputs, but the model was given {positions + len(names)}: {example!r}"
        )
    return ExampleInputs(items[:positions], dict(zip(names, items[positions:])))


def _free_sizes(graph: fx.Graph) -> list[set[int]]:
    """The dimensions of each input of `graph` that may have another size than they had in the trace."""
    values = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    return [
        {d for d, size in enumerate(value.shape) if isinstance(size, torch.SymInt)} if isinstance(value, Tensor) else set()
        for value in values
    ]


def _partial(inputs: ExampleInputs, example: ExampleInputs, graph: fx.Graph) -> str | None:
    """What to tell of a batch with fewer samples, or more, than `graph` is fixed to; None of any other."""
    wanted, given = ([leaf for _, leaf in one.leaves()] for one in (example, inputs))
    size, other = leading_size(wanted), leading_size(given)
    if any(_free_sizes(graph)) or not size or not other or other == size or len(wanted) != len(given):
        return None
    for want, have in zip(wanted, given):
        batched = isinstance(want, Tensor) and want.dim() and want.shape[0] == size
        if batched and not (isinstance(have, Tensor) and have.shape == (other, *want.shape[1:])):
            return None
    return f"the model takes {size} samples at a time, as it was traced, not {other}"


def _mismatch(want: Any, have: Any, free: set[int], dimension: int | None) -> str | None:
    if not isinstance(want, Tensor):
        same = type(want) is type(have) and (want == have or (want != want and have != have))  # NaN is the same as NaN
        constant = f"{describe_value(want)} was taken for a constant, and is {describe_value(have)} here"
        return None if same else f"{constant}; compile with a tensor in its place, so that it can change"
    if not isinstance(have, Tensor):
        return f"expected a tensor {describe_value(want)}, got {describe_value(have)}; convert it with torch.as_tensor"
    if len(want.shape) != have.dim() or any(a != b for d, (a, b) in enumerate(zip(want.shape, have.shape)) if d not in free):
        names = {d: "batch" if d == dimension else "any" for d in free}
        wanted = ", ".join(str(names.get(d, size)) for d, size in enumerate(want.shape))
        hint = "; dynamic_shapes='auto' frees those of pictures; pad or resize to what forward needs as a number"
        hint = hint if len(want.shape) == have.dim() else ""
        return f"expected the shape [{wanted}], got {list(have.shape)}{hint}"
    if have.numel() == 0 and want.numel() > 0:
        return f"it holds no samples (its shape is {list(have.shape)})"
    if want.dtype != have.dtype:
        return f"expected {want.dtype}, got {have.dtype}; convert it with .to({want.dtype})"
    if want.device != have.device:
        return f"expected a tensor on {want.device}, got one on {have.device}; move it with .to({str(want.device)!r})"
    return None
