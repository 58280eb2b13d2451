"""Calls of a compressed module as its own forward takes them, passed on as the captured graph takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs, describe_value
from fxcompress.errors import InputError
from fxcompress.ir.fake import static_sizes

_MISSING = object()


@dataclass(frozen=True)
class _Sizes:
    """What a tensor is to be: its sizes, None for those that are free, and the name of its type."""

    sizes: tuple[int | None, ...]
    dtype: str

    @classmethod
    def of(cls, value: Tensor) -> _Sizes:
        sizes = tuple(size if isinstance(size, int) else None for size in static_sizes(value.shape))
        return cls(sizes, str(value.dtype).removeprefix("torch."))

    def fit(self, given: Any) -> bool:
        if not isinstance(given, Tensor) or given.dim() != len(self.sizes):
            return False
        return all(size is None or size == other for size, other in zip(self.sizes, given.shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('any' if size is None else str(size) for size in self.sizes)}]"


class Calls:
    """Translates calls of `original`, a forward, into calls of `captured`, the code of the graph made of it.

    The graph knows the arguments that the example gave. One that it does not know passes where it says nothing: None, the
    default, or a keyword that `original` only has a ``**kwargs`` for. One that is no tensor was taken for a constant, and a
    size that is not free is as it was.
    """

    def __init__(self, original: Callable[..., Any], captured: Callable[..., Any], graph: fx.Graph, example: ExampleInputs):
        self.original = inspect.signature(original)
        self.known = list(inspect.signature(captured).parameters)[1:]
        kinds = {name: parameter.kind for name, parameter in self.original.parameters.items()}
        self.variadic = next((name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD), None)
        positional = inspect.Parameter.VAR_POSITIONAL in kinds.values()
        self.by_name = set(self.known) <= kinds.keys() if positional or self.variadic is None else True
        self.expected = self._expected(graph, example) if self.by_name else {}

    def run(self, module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `call`, which takes what `captured` takes, returns for ``forward(*args, **kwargs)`` of `module`.

        Raises:
            InputError: an argument says something that the graph does not know, or one that it knows is missing or of another
                size or value.
        """
        if not self.by_name:
            return call(*args, **kwargs)
        name = type(module).__name__
        given = dict(list(self.original.bind(module, *args, **kwargs).arguments.items())[1:])
        extra = given.pop(self.variadic, {}) if self.variadic else {}
        for key, value in given.items():
            if key not in self.known and not self._says_nothing(key, value):
                raise InputError(
                    f"{name} was compressed for calls without {key!r}; compress it with example inputs that have it, "
                    "or compress a submodule that is called without: compress(model, submodules=[...])"
                )
        given |= extra
        missing = [key for key in self.known if key not in given and not self._by_default(key)]
        if missing:
            raise InputError(
                f"{name} was compressed for calls with {', '.join(missing)}, which this call leaves out; where only a loss "
                f"needs that, compression.compiled.without({', '.join(map(repr, missing))}) is called so"
            )
        for key, expected in self.expected.items():
            if key in given:
                _check(name, key, expected, given[key])
        return call(**{key: given.get(key, self.expected.get(key)) for key in self.known})

    def _expected(self, graph: fx.Graph, example: ExampleInputs) -> dict[str, Any]:
        """What each known argument was in the example, with what is asked for in the place of each tensor."""
        leaves, form = pytree.tree_flatten((example.args, example.kwargs))
        traced = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
        if len(traced) != len(leaves):
            return {}
        held = [_Sizes.of(value) if isinstance(leaf, Tensor) else leaf for leaf, value in zip(leaves, traced)]
        args, kwargs = pytree.tree_unflatten(held, form)
        return dict(zip(self.known, (*args, *kwargs.values())))

    def _says_nothing(self, name: str, value: Any) -> bool:
        default = self.original.parameters[name].default
        return value is None or value is default or (isinstance(value, (bool, int, float, str)) and value == default)

    def _by_default(self, name: str) -> bool:
        """Whether a call without the constant `name` means the one that was traced."""
        parameter, known = self.original.parameters.get(name), self.expected.get(name, _MISSING)
        return parameter is not None and known is not _MISSING and _same(parameter.default, known)


def _check(module: str, name: str, expected: Any, given: Any) -> None:
    """Raise InputError where `given` is not what the graph takes for the argument `name`: its form, sizes and constants."""
    wanted, form = pytree.tree_flatten(expected)
    got, other = pytree.tree_flatten(given)
    if form == other and all(map(_fits, wanted, got)):
        return
    raise InputError(
        f"{module} was compressed for calls with {name}={_described(expected)}, not {describe_value(given)}; "
        "sizes that the data shows in more than one are free where the model allows it, others stay as in the example"
    )


def _fits(expected: Any, given: Any) -> bool:
    return expected.fit(given) if isinstance(expected, _Sizes) else _same(expected, given)


def _same(expected: Any, given: Any) -> bool:
    return expected is given or (type(expected) is type(given) and not isinstance(given, Tensor) and bool(expected == given))


def _described(expected: Any) -> str:
    """As `describe_value`, with ``any`` for the sizes that are free."""
    if isinstance(expected, _Sizes):
        return str(expected)
    if isinstance(expected, (list, tuple)):
        return f"{type(expected).__name__}({', '.join(map(_described, expected))})"
    return describe_value(expected)
