"""Loops that run as often as the example has steps, because they cannot be of any number, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from torch import fx

from fxcompress.errors import FxCompressError


class LoopError(FxCompressError):
    """A loop over a size that is free does more than hand values from step to step; capture writes it out then."""


@dataclass(eq=False)
class WrittenOut:
    """What runs as often as the example has steps: loops over the `parts` of tensors, and those over `ranges` of numbers.

    Attributes:
        apart: whether a trace met parts that are not.
    """

    parts: bool = False
    ranges: bool = False
    apart: bool = False


_written_out: ContextVar[WrittenOut | None] = ContextVar("written_out", default=None)


def written_out() -> WrittenOut:
    """What a trace that begins now writes out."""
    return _written_out.get() or WrittenOut()


def with_few_written_out(captured: Callable[[], fx.GraphModule]) -> fx.GraphModule:
    """What `captured` gives, with those loops written out that have to be, and notes of why.

    Raises:
        LoopError: it fails with all of them written out.
    """
    written, told = WrittenOut(), dict[str, None]()
    while True:
        try:
            with _writing_out(written):
                found = captured()
        except LoopError as error:
            if written.ranges:
                raise
            told[str(error)] = None
            written = WrittenOut(parts=True, ranges=not written.apart)
        else:
            found.meta["capture_notes"] += told
            return found


@contextlib.contextmanager
def _writing_out(written: WrittenOut) -> Iterator[None]:
    before = _written_out.set(written)
    try:
        yield
    finally:
        _written_out.reset(before)
