"""An exported program as a module that holds its parameters, in time that grows with their number and no faster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import fx, nn
from torch.export import ExportedProgram, _unlift

from fxcompress.capture.assembly import submodule
from fxcompress.capture.replaced import replaced
from fxcompress.ir.codeless import codeless


def unlifted(program: ExportedProgram) -> fx.GraphModule:
    """`program` as a module that reads its parameters, buffers and constants by ``get_attr``, without code."""
    with _assigned_to_their_owner(), codeless():
        return program.module(check_guards=False)


@contextlib.contextmanager
def _assigned_to_their_owner() -> Iterator[None]:
    """In this context torch looks at none but the owner of a tensor.

    It compares all modules beside that with the names of further calls of one, which modules have that were taken apart again.
    """
    own = _unlift._assign_attr

    def assign(held: Any, root: nn.Module, target: str, *options: Any, **named: Any) -> None:
        path, _, name = target.rpartition(".")
        own(held, submodule(root, path), name, *options, **named)

    with replaced({(_unlift, "_assign_attr"): assign}):
        yield
