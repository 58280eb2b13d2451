"""Calibration data as passes read it: the model's flattened inputs, so many samples, in batches of a size that runs well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs, batch_inputs, batch_is_free
from fxcompress.errors import InputError


class CalibrationSource(Protocol):
    """What readers of calibration data are told: a pass's `Context` is one.

    Attributes:
        data: calibration batches, which can be read several times, or None.
        example: inputs that the graph accepts.
        pass_name: who reads, for errors and progress.
        progress: called as ``progress(description, done, total)``.
    """

    data: Iterable[Any] | None
    example: ExampleInputs
    pass_name: str

    @property
    def progress(self) -> Callable[[str, int, int | None], None]: ...


def read_samples(data: Iterable[Any], example: ExampleInputs, count: int | None) -> Iterator[list[Tensor]]:
    """The flattened inputs of each batch of `data`, cut off after `count` samples (None: all of them).

    Raises:
        InputError: a batch does not fit the model that was given `example`.
    """
    left = count
    for batch in _outside_autocast(data):
        inputs = batch_inputs(batch, example)
        leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
        if left is not None:
            leaves = [leaf[:left] for leaf in leaves] if len(leaves[0]) > left else leaves
            left -= len(leaves[0])
        yield leaves
        if left == 0:
            return


def in_chunks(batches: Iterator[list[Tensor]], size: int) -> Iterator[tuple[list[Tensor], int]]:
    """The same samples in batches of at least `size` (0: as they come), each with its number of samples."""
    held: list[list[Tensor]] = []
    count = 0
    for leaves in batches:
        held.append(leaves)
        count += len(leaves[0])
        if count >= size:
            yield [torch.cat(parts) for parts in zip(*held)] if len(held) > 1 else leaves, count
            held, count = [], 0
    if held:
        yield [torch.cat(parts) for parts in zip(*held)], count


def samples_of(source: CalibrationSource, count: int | None) -> Iterator[list[Tensor]]:
    """`read_samples` of the data that the passes were given.

    Raises:
        InputError: there is no data, it is empty, a batch does not fit the model, or `count` is not positive.
    """
    if count is not None and count < 1:
        raise InputError(f"{source.pass_name} needs at least one sample, not samples={count}")
    if source.data is None:
        raise InputError(f"{source.pass_name} needs data: compile(model, data=loader), any iterable of batches")
    empty = True
    for leaves in read_samples(source.data, source.example, count):
        yield leaves
        empty = False
    if empty:
        raise InputError("the calibration data is empty: give at least one batch, as in compile(model, data=loader)")


def chunks(graph: fx.Graph, source: CalibrationSource, count: int | None, size: int) -> Iterator[tuple[list[Tensor], int]]:
    """`samples_of` the data `in_chunks` of `size`; in its own batches where the batch size of `graph` is not free."""
    return in_chunks(samples_of(source, count), size if batch_is_free(graph) else 0)


def in_small_batches(graph: fx.Graph, batches: Iterator[list[Tensor]], size: int) -> Iterator[tuple[list[Tensor], int]]:
    """The same samples in batches of `size` and smaller ones, each with its number of samples.

    Where the batch size of `graph` is not free, the batches are as they come.
    """
    if not batch_is_free(graph):
        yield from in_chunks(batches, 0)
        return
    for leaves, _ in in_chunks(batches, size):
        for parts in zip(*(leaf.split(size) for leaf in leaves)):
            yield list(parts), len(parts[0])


def one_batch(graph: fx.Graph, source: CalibrationSource, count: int) -> list[Tensor]:
    """The first `count` samples of the data as one batch; the first batch as it is where the batch size is not free.

    Raises:
        InputError: there is no data, a batch does not fit the model, or `count` is not positive.
    """
    batches = samples_of(source, count)
    if not batch_is_free(graph):
        batches = itertools.islice(batches, 1)
    return [torch.cat(leaves) for leaves in zip(*batches)]


def _outside_autocast(data: Iterable[Any]) -> Iterator[Any]:
    """`data`, whose own computations (an augmentation, the layers before a submodule) keep their precision."""
    iterator, end = iter(data), object()
    while True:
        with torch.autocast("cpu", enabled=False):
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch
