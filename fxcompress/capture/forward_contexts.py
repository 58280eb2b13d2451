"""Contexts in which the forward of a model runs while it is traced, and nothing else does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def while_it_runs(model: nn.Module, *contexts: Context) -> Iterator[None]:
    """In this context, `model` is called within `contexts`, made anew for each call, but for calls that it makes of itself.

    A call that raises may leave them open to the end, since torch calls no hooks behind it where it traces: each try takes a
    context of its own. torch's own work around the call is outside them: where it makes fake tensors of parameters it asks
    each for fifty things, which costs more than the trace if all of them pass through Python.
    """
    entered: list[contextlib.ExitStack] = []

    def enter(module: nn.Module, args: Any) -> None:
        entered.append(contextlib.ExitStack())
        for context in contexts if len(entered) == 1 else ():
            entered[0].enter_context(context())

    def leave(module: nn.Module, args: Any, outputs: Any) -> None:
        entered.pop().close()

    before = model.register_forward_pre_hook(enter, prepend=True)
    after = model.register_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
        while entered:
            entered.pop().close()
