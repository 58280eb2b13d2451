"""What modules are called with while the model around them runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from fxcompress.capture.replaced import replaced
from fxcompress.data.inputs import ExampleInputs


@contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[ExampleInputs]]]:
    """The inputs of every call of each of `modules`, a list for each path, copied as they come.

    Calls are seen at `forward`, since some models call that in place of the module. Arguments that are None, which they are
    by default, say nothing and are left out by name, and by position behind all others.
    """
    calls: dict[str, list[ExampleInputs]] = {}
    with forwards_replaced(modules, lambda path, forward: _recorder(forward, calls, path)):
        yield calls


@contextmanager
def forwards_replaced(
    modules: Mapping[str, nn.Module], wrapped: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Put ``wrapped(path, forward)`` in the place of the `forward` of each of `modules`, and what was there back at the end."""
    with ExitStack() as stack:
        for path, module in modules.items():  # one after the other, since a module may have several paths
            stack.enter_context(replaced({(module, "forward"): wrapped(path, module.forward)}))
        yield


def _recorder(forward: Any, calls: dict[str, list[ExampleInputs]], path: str) -> Any:
    names = inspect.signature(forward).parameters
    optional = {name for name, parameter in names.items() if parameter.default is None}
    in_order = list(names)

    @functools.wraps(forward)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        said = list(args)
        while said and said[-1] is None and optional.issuperset(in_order[len(said) - 1 : len(said)]):
            said.pop()
        by_name = {name: value for name, value in kwargs.items() if value is not None or name not in optional}
        calls.setdefault(path, []).append(ExampleInputs(tuple(said), by_name).copy())
        return forward(*args, **kwargs)

    return recorded
