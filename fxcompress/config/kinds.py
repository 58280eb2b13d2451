"""Which classes a file can name, and by which names."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING
from typing import Annotated, Any, Union, get_args, get_origin

from fxcompress.errors import ConfigError, InputError
from fxcompress.options import Declared
from fxcompress.options.kinds import members


def name_of(one: type) -> str:
    """``Quantize`` for a class of this library, ``my_package:MyPass`` for another.

    Raises:
        ConfigError: the class stands in a function, from where nothing can import it.
    """
    if "<" in one.__qualname__:
        raise ConfigError(f"{one.__qualname__} cannot be written: a class in a function cannot be imported again")
    return one.__name__ if is_ours(one) else f"{one.__module__}:{one.__qualname__}"


def is_ours(one: type) -> bool:
    return one.__module__.partition(".")[0] == __name__.partition(".")[0]


def known(base: type) -> dict[str, type]:
    """The classes of this library that a value declared as `base` can be, by name."""
    ours = [one for one in members(base) if is_ours(one)]
    return {one.__name__: one for one in ours if one is not base or ours == [base]}


def imported(name: str, base: type) -> type:
    """The class ``my_package:MyPass``, which runs the code of that module.

    Raises:
        InputError: there is no such class, or it is no `base`.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as problem:
        raise InputError(f"{name!r} cannot be imported: {problem}") from problem
    if not isinstance(found, type) or not issubclass(found, base):
        raise InputError(f"{name!r} is no {base.__name__}")
    return found


def is_options(declared: Any) -> bool:
    """Whether values of the type `declared` are objects with options of their own."""
    return isinstance(declared, type) and issubclass(declared, Declared)


def alternatives(declared: Any) -> tuple[Any, ...]:
    """The types that a value of the type `declared` can be of, without their ranges: of a union all, else the one."""
    if get_origin(declared) is Annotated:
        return alternatives(get_args(declared)[0])
    if get_origin(declared) in (Union, types.UnionType):
        return tuple(inner for part in get_args(declared) for inner in alternatives(part))
    return (declared,)


def direct(declared: Any) -> type | None:
    """The one class whose options can stand without its name where `declared` is asked for; None where it must be named."""
    found = [one for one in alternatives(declared) if is_options(one)]
    return found[0] if len(found) == 1 and members(found[0]) == [found[0]] else None


def stands_alone(one: type) -> bool:
    """Whether an object of the class `one` can be made without options."""
    try:
        one()
    except (InputError, TypeError):
        return False
    return True


def needed(one: Callable[..., Any]) -> list[str]:
    """The options of the class or the function `one` that have no default."""
    if inspect.isfunction(one):
        return [name for name, given in inspect.signature(one).parameters.items() if given.default is inspect.Parameter.empty]
    fields = dataclasses.fields(one) if dataclasses.is_dataclass(one) else ()
    return [f.name for f in fields if f.init and f.default is MISSING and f.default_factory is MISSING]
