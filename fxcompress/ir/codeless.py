"""Graph modules that are read and never called: torch would write and load code for each, time and again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch import fx


@contextlib.contextmanager
def codeless() -> Iterator[None]:
    """In this context, and in this thread, graph modules get no code: what is made here runs by `fx.Interpreter` alone."""
    own, here = fx.GraphModule.recompile, threading.get_ident()

    def recompile(graph_module: fx.GraphModule) -> object:
        return own(graph_module) if threading.get_ident() != here else None

    fx.GraphModule.recompile = recompile  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        fx.GraphModule.recompile = own  # type: ignore[method-assign]
