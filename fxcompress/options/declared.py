"""Whatever declares options: a dataclass whose fields have types and ranges, or a function whose parameters have."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast, get_type_hints

from fxcompress.errors import InputError, did_you_mean, shown
from fxcompress.options.kinds import allowed, choices, fits, plain

Function = TypeVar("Function", bound=Callable[..., Any])


class Declared:
    """A dataclass whose fields are options: each is checked against its declared type and range when an object is made.

    ``samples: Annotated[int, Ge(1)] = 32`` is all that is to be written. `__post_init__` is for what concerns several options,
    and runs afterwards. What is declared as a list of any kind is kept as a tuple, and numbers and texts as Python's own, so
    that equal options are equal objects.

    Raises:
        InputError: an option is of another type or out of its range.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is None:
            return  # it inherits what checks the fields of its own class, and what concerns several of its base's

        def __post_init__(self: Any) -> None:
            check_fields(self)
            own(self)

        cls.__post_init__ = __post_init__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(declared: Any) -> None:
    """Raise InputError for a field of the dataclass `declared` that is not as it is declared; keep the others in plain form."""
    for name, hint in declarations(type(declared)).items():
        given = getattr(declared, name)
        value = plain(given, hint)
        _check(type(declared).__name__, name, value, hint)
        if value is not given:
            object.__setattr__(declared, name, value)


def declarations(owner: Callable[..., Any]) -> dict[str, Any]:
    """The options of the dataclass or the function `owner` as it declares them."""
    hints: dict[str, Any] = _hints(owner)
    if inspect.isfunction(owner):
        return {name: hints[name] for name in inspect.signature(owner).parameters if name in hints}
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return {field.name: hints[field.name] for field in fields if field.init and field.name in hints}


def check_arguments(*names: str) -> Callable[[Function], Function]:
    """A decorator: a call with an argument that is not as its parameter is declared raises InputError.

    Args:
        names: the parameters to look at; none for all.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function)

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            hints = _hints(function)
            for name, value in parameters.bind(*args, **kwargs).arguments.items():
                if (name in names or not names) and name in hints:
                    _check(function.__name__, name, value, hints[name])
            return function(*args, **kwargs)

        return cast(Function, checked)

    return decorate


def _check(owner: str, name: str, value: Any, declared: Any) -> None:
    if not fits(value, declared):
        hint = f"; write [{shown(value)}]" if fits([value], declared) else ""
        if isinstance(value, int) and value.bit_length() > 63:
            hint = "; whole numbers have 64 bits"
        if isinstance(value, str):
            hint = hint or did_you_mean(value, [choice for choice in choices(declared) if isinstance(choice, str)])
        raise InputError(f"{owner} needs {name} {allowed(declared)}, got {shown(value)}{hint}")


@cache
def _hints(owner: Any) -> dict[str, Any]:
    """The declarations of `owner`; none where one of them cannot be found, which is its author's to say."""
    try:
        return get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):
        return {}
