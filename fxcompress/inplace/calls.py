"""Calls of a compressed module as its own forward takes them, passed on as the captured graph takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxcompress.driver.granted import Granted


class Calls:
    """Translates calls of `original`, the forward of a class called `name`, into calls of the `graph` made of it.

    A keyword that `original` only has a ``**kwargs`` for, and the graph does not know, is left out.
    """

    def __init__(self, original: Callable[..., Any], graph: fx.Graph, name: str) -> None:
        self.original = inspect.signature(original)
        self.parameters = list(self.original.parameters.values())[1:]
        self.granted = Granted(graph, made=f"{name} was compressed", held="compression.compiled", refuses_sizes=True)
        names = {one.kind: one.name for one in self.parameters}
        self.variadic = names.get(inspect.Parameter.VAR_KEYWORD)
        self.by_name = inspect.Parameter.VAR_POSITIONAL not in names

    def run(self, module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `call`, which takes what the graph takes, returns for ``forward(*args, **kwargs)`` of `module`.

        Raises:
            InputError: an argument says something that the graph does not know, or one that it knows is missing or of another
                size or value.
        """
        if self.by_name:
            given = dict(list(self.original.bind(module, *args, **kwargs).arguments.items())[1:])
            extra = given.pop(self.variadic, {}) if self.variadic else {}
            args, kwargs = (), given | {name: value for name, value in extra.items() if name in self.granted.names}
        args, kwargs = self.granted.as_known(self.parameters, args, kwargs)
        self.granted.check(args, kwargs)
        return call(*args, **kwargs)
