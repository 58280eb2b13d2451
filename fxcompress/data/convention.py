"""Calls of a graph by the parameters that the model's own forward has: a graph knows those of the example."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.export import ExportedProgram

from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError

PARAMETERS = "parameters"
"""The key in a graph module's ``meta`` for what `parameters_of` gives."""


def parameters_of(model: nn.Module) -> Sequence[inspect.Parameter]:
    """What forward of `model` takes, in its order."""
    if isinstance(model, fx.GraphModule) and PARAMETERS in model.meta:
        return model.meta[PARAMETERS]  # of the model that it was made of
    return list(inspect.signature(model.forward).parameters.values())


def in_order(model: nn.Module | ExportedProgram, example: ExampleInputs) -> ExampleInputs:
    """`example` with its keywords in the order of forward's parameters, as graphs and files have them; others come last."""
    if isinstance(model, ExportedProgram):
        spec = model.call_spec.in_spec
        names = [] if spec is None else list(spec.children()[1].context)
    else:
        names = [one.name for one in parameters_of(model)]
    known = [name for name in names if name in example.kwargs]
    return ExampleInputs(example.args, {name: example.kwargs[name] for name in dict.fromkeys([*known, *example.kwargs])})


def by_name(
    parameters: Sequence[inspect.Parameter] | None,
    positional: int,
    known: Collection[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    made: str,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with the names of forward's `parameters` for arguments behind the first `positional`, which graphs take by place.

    Those that are not `known` to the graph are left out where they say nothing: the default, or None where there is none.
    Where forward takes any number by position, places have no names; where its parameters are not known, nothing has.

    Raises:
        InputError: one that is not known says something; the message begins with `made`.
        TypeError: there are too many, or one twice.
    """
    own = {one.name: one for one in parameters or () if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    named = dict(kwargs)
    if own and len(args) > positional and all(one.kind is not one.VAR_POSITIONAL for one in parameters or ()):
        places = [one.name for one in own.values() if one.kind is not one.KEYWORD_ONLY]
        if len(args) > len(places):
            raise TypeError(f"forward() takes {len(places)} arguments by position, but {len(args)} were given")
        by_place = dict(zip(places[positional:], args[positional:]))
        if by_place.keys() & kwargs.keys():
            raise TypeError(f"forward() got {', '.join(sorted(by_place.keys() & kwargs.keys()))} by position and by name")
        args, named = args[:positional], by_place | named
    unknown = {name: value for name, value in named.items() if name in own and name not in known}
    for name, value in unknown.items():
        if not _says_nothing(own[name].default, value):
            raise InputError(
                f"{made} for calls without {name!r}; compile it with example inputs that have it, in a dict or in "
                "example_inputs=(...), or compile a submodule that is called without: submodules=[...]"
            )
    return args, {name: value for name, value in named.items() if name not in unknown}


def same_constant(left: Any, right: Any) -> bool:
    """Whether two values that are no tensors are the same."""
    return left is right or (type(left) is type(right) and isinstance(left, (bool, int, float, str, tuple)) and left == right)


def _says_nothing(default: Any, value: Any) -> bool:
    nothing = default is inspect.Parameter.empty or default is None
    return value is default or (value is None and nothing) or (isinstance(value, (bool, int, float, str)) and value == default)
