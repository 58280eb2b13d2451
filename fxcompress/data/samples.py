"""Calibration data as passes read it: the model's flattened inputs, so many samples, in batches of a size that runs well.

Where samples lie is known to `Batch`, and padding to `Padding`; what does not fit together (other lengths, another step of a
diffusion) is not joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.fitting import fitting
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.nonfinite import NonFinite
from fxcompress.data.padding import Padding
from fxcompress.errors import InputError


class CalibrationSource(Protocol):
    """What readers of calibration data are told: a pass's `Context` is one.

    Attributes:
        data: calibration batches, which can be read several times, or None.
        example: inputs that the graph accepts.
        pass_name: who reads, for errors and progress.
        nonfinite: what was found in the data that was read so far.
        progress: called as ``progress(description, done, total)``.
    """

    data: Iterable[Any] | None
    example: ExampleInputs
    pass_name: str
    nonfinite: NonFinite

    @property
    def progress(self) -> Callable[[str, int, int | None], None]: ...

    def note(self, text: str) -> None:
        """Tell the reader of the report."""


def read_samples(
    data: Iterable[Any],
    example: ExampleInputs,
    graph: fx.Graph,
    count: int | None,
    note: Callable[[str], None] = lambda text: None,
    nonfinite: NonFinite | None = None,
) -> Iterator[Leaves]:
    """The flattened inputs of each batch of `data`, cut off after `count` samples (None: all of them).

    Where samples cannot be told apart, the last batch is whole. `note` is told of NaN and infinity that `nonfinite` has not
    met before.

    Raises:
        InputError: a batch does not fit `graph`, which was captured with `example`.
    """
    batch, left, seen = Batch.of(graph), count, 0
    names, nonfinite = [name for name, _ in example.leaves()], nonfinite or NonFinite()
    for inputs in fitting(_outside_autocast(data), example, graph, note):
        leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
        if left is not None:
            leaves = batch.cut(leaves, 0, left)
            left -= batch.count(leaves)
        for found in nonfinite.look(leaves, names, batch, seen):
            note(found)
        seen += batch.count(leaves)
        yield leaves
        if left is not None and left <= 0:
            return


def in_chunks(batch: Batch, pieces: Iterable[Leaves], size: int) -> Iterator[tuple[Leaves, int]]:
    """The same samples in batches of at least `size`, so far as they fit together, each with its number of samples."""
    held: list[Leaves] = []
    count = 0
    for leaves in pieces:
        if held and not batch.fit_together(held[0], leaves):
            yield batch.join(held), count
            held, count = [], 0
        held.append(leaves)
        count += batch.count(leaves)
        if count >= size:
            yield batch.join(held), count
            held, count = [], 0
    if held:
        yield batch.join(held), count


LIKE, AMONG = 8, 64
"""Samples of about the same length that run together, at most, and those that they are found among."""


def packed(graph: fx.Graph, pieces: Iterable[Leaves], size: int) -> Iterator[tuple[Leaves, int]]:
    """`in_chunks`; without padding, where outputs do without it, in smaller batches of about the same length.

    These come in another order, which is drawn, so that who stops early has seen short ones and long ones.
    """
    batch, padding = Batch.of(graph), Padding.of(graph)
    if padding is None:
        yield from in_chunks(batch, pieces, size)
        return
    singles = (padding.resized(one, padding.length(one)) for leaves in pieces for one in batch.split(leaves, 1))
    random = torch.Generator().manual_seed(0)
    while held := sorted(islice(singles, AMONG), key=padding.length):
        groups = list(in_groups(held, min(size, LIKE)))
        for place in torch.randperm(len(groups), generator=random).tolist():
            longest = padding.length(groups[place][-1])
            yield from in_chunks(batch, [padding.resized(one, longest) for one in groups[place]], size)


def in_groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in as few runs of at most `size` as there can be, all about as long."""
    count = -(-len(items) // size)
    yield from (items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count))


def samples_of(graph: fx.Graph, source: CalibrationSource, count: int | None, without: range = range(0)) -> Iterator[Leaves]:
    """`read_samples` of the data that the passes were given, but for those that `without` counts.

    Raises:
        InputError: there is no data, it is empty, a batch does not fit the model, or `count` is not positive.
    """
    if count is not None and count < 1:
        raise InputError(f"{source.pass_name} needs at least one sample, not samples={count}")
    if source.data is None:
        raise InputError(f"{source.pass_name} needs data: compile(model, data=loader), any iterable of batches")
    batch, seen = Batch.of(graph), 0
    for leaves in read_samples(source.data, source.example, graph, count, source.note, source.nonfinite):
        yield from _outside(batch, leaves, seen, without)
        seen += batch.count(leaves)
    if not seen:
        raise InputError("the calibration data is empty: give at least one batch, as in compile(model, data=loader)")


def _outside(batch: Batch, leaves: Leaves, first: int, without: range) -> Iterator[Leaves]:
    """Those of the samples, `first` of which come before `leaves`, that `without` does not count.

    A batch whose samples cannot be told apart is counted as its first one is.
    """
    if not batch.is_free:
        yield from [] if first in without else [leaves]
        return
    size = batch.count(leaves)
    start, stop = (min(max(border - first, 0), size) for border in (without.start, without.stop))
    if start >= stop:
        yield leaves
        return
    yield from (batch.cut(leaves, *piece) for piece in ((0, start), (stop, size)) if piece[0] < piece[1])


def chunks(
    graph: fx.Graph, source: CalibrationSource, count: int | None, size: int, without: range = range(0)
) -> Iterator[tuple[Leaves, int]]:
    """`samples_of` the data, `packed` in chunks of `size`."""
    return packed(graph, samples_of(graph, source, count, without), size)


def in_small_batches(graph: fx.Graph, pieces: Iterable[Leaves], size: int) -> Iterator[tuple[Leaves, int]]:
    """The same samples in batches of `size` and smaller ones, each with its number of samples.

    Where samples cannot be told apart, the batches are as they come.
    """
    batch = Batch.of(graph)
    for leaves, _ in packed(graph, pieces, size):
        for part in batch.split(leaves, size):
            yield part, batch.count(part)


def joined(graph: fx.Graph, source: CalibrationSource, count: int) -> list[Leaves]:
    """The first `count` samples of the data, in as few batches as they fit in together and are `packed` in.

    Raises:
        InputError: there is no data, a batch does not fit the model, or `count` is not positive.
    """
    return [leaves for leaves, _ in chunks(graph, source, count, count)]


def divided(graph: fx.Graph, source: CalibrationSource, count: int, others: int) -> tuple[list[Leaves], list[Leaves]]:
    """`joined` of the first `count` samples, and of at most `others` that come after them; see `divide`.

    Raises:
        InputError: there is no data, a batch does not fit the model, or `count` is not positive.
    """
    if count < 1:
        return joined(graph, source, count), []
    divided = divide(Batch.of(graph), samples_of(graph, source, count + others), count, others)
    first, rest = ([leaves for leaves, _ in packed(graph, pieces, count)] for pieces in divided)
    return first, rest


def divide(batch: Batch, batches: Iterable[Leaves], count: int, others: int) -> tuple[list[Leaves], list[Leaves]]:
    """The first `count` samples of `batches`, and the rest, which are to be `others` at least.

    Where there are too few, up to a quarter of all of them are the others; of fewer than four, none. Batches whose
    samples cannot be told apart stay whole.
    """
    sizes = [(leaves, batch.count(leaves)) for leaves in batches]
    total, seen = sum(size for _, size in sizes), 0
    border = min(count, total - min(others, total // 4))
    first: list[Leaves] = []
    rest: list[Leaves] = []
    for leaves, size in sizes:
        left = max(border - seen, 0)
        inside = min(size, left) if batch.is_free else size if left else 0
        first += [batch.cut(leaves, 0, inside)] if inside else []
        rest += [batch.cut(leaves, inside, size)] if inside < size else []
        seen += size
    return first, rest


def _outside_autocast(data: Iterable[Any]) -> Iterator[Any]:
    """`data`, whose own computations (an augmentation, the layers before a submodule) keep their precision."""
    iterator, end = iter(data), object()
    while True:
        with torch.autocast("cpu", enabled=False):
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch
