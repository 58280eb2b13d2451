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
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with the names of forward's `parameters` for arguments behind the first `positional`, which graphs take by place.

    Those that are not `known` to the graph are left out where they say nothing: None, or the default. Where forward takes any
    number by position, places have no names, and the call is as it was; so too where its parameters are not known.

    Raises:
        InputError: one that is not known says something.
        TypeError: there are too many, or one twice.
    """
    if parameters is None or len(args) <= positional or any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return args, dict(kwargs)
    own = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    named = {one.name: (one, value) for one, value in zip(own[positional:], args[positional:])}
    if len(args) > len(own):
        raise TypeError(f"forward() takes {len(own)} arguments by position, but {len(args)} were given")
    if named.keys() & kwargs.keys():
        raise TypeError(f"forward() got {', '.join(sorted(named.keys() & kwargs.keys()))} by position and by name")
    for name, (one, value) in named.items():
        if name not in known and not _says_nothing(one, value):
            raise InputError(
                f"the model was compiled for calls without {name}; compile it with example inputs that have it, in a dict or "
                "in compile(example_inputs=(...))"
            )
    return args[:positional], {name: value for name, (_, value) in named.items() if name in known} | dict(kwargs)


def _says_nothing(parameter: inspect.Parameter, value: Any) -> bool:
    default = parameter.default
    return value is None or value is default or (isinstance(value, (bool, int, float, str)) and value == default)
