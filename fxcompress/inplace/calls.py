"""Calls of a compressed module as its own forward takes them, passed on as the captured graph takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from fxcompress.errors import InputError

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Calls:
    """Translates calls of `original`, a forward, into calls of `captured`, the code of the graph made of it.

    The graph knows the arguments that the example gave. One that it does not know passes where it says nothing: None, the
    default, or a keyword that `original` only has a ``**kwargs`` for.
    """

    def __init__(self, original: Callable[..., Any], captured: Callable[..., Any], name: str):
        self.original, self.captured, self.name = inspect.signature(original), captured, name
        self.known = list(inspect.signature(captured).parameters)[1:]
        self.by_name = set(self.known) <= {p.name for p in self.original.parameters.values() if p.kind not in _VARIADIC}

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the graph returns for ``forward(*args, **kwargs)``, computed on the tensors of `module`.

        Raises:
            InputError: an argument says something that the graph does not know, or one that it knows is missing.
        """
        if not self.by_name:
            return self.captured(module, *args, **kwargs)
        given = self.original.bind(module, *args, **kwargs).arguments
        for name, value in list(given.items())[1:]:
            parameter = self.original.parameters[name]
            if name not in self.known and parameter.kind not in _VARIADIC and not _says_nothing(value, parameter.default):
                raise InputError(
                    f"{self.name} was compressed for calls without {name!r}; compress it with example inputs that have it, "
                    "or compress a submodule that is called without: compress(model, submodules=[...])"
                )
        missing = [name for name in self.known if name not in given]
        if missing:
            raise InputError(f"{self.name} was compressed for calls with {', '.join(missing)}, which this call leaves out")
        return self.captured(module, *(given[name] for name in self.known))


def _says_nothing(value: Any, default: Any) -> bool:
    return value is None or value is default or (isinstance(value, (bool, int, float, str)) and value == default)
