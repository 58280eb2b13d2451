"""Whether a value is of a declared type and within its range, and how to say what is."""

from __future__ import annotations

import inspect
import itertools
import math
import numbers
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

_PLAIN = {
    int: "that is a whole number",
    float: "that is a finite number",
    bool: "that is True or False",
    str: "that is a text",
}


_LISTS = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class OneOf:
    """A declaration that names what it takes: ``Annotated[str, OneOf(TABLE)]`` takes the keys of TABLE."""

    names: Collection[str]

    def __hash__(self) -> int:
        return hash(tuple(self.names))


def fits(value: Any, declared: Any) -> bool:
    """Whether `value` is as `declared`. What cannot be checked (an iterator's items, a protocol) is taken to be."""
    origin, parts = get_origin(declared), get_args(declared)
    if declared is Any:
        return True
    if origin is Annotated:
        return fits(value, parts[0]) and all(_within(value, limit) for limit in parts[1:])
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if declared in (int, float, bool):
        return _is_number(value, declared)
    if declared is None or declared is type(None):
        return value is None
    if origin is Callable or declared is Callable:
        return callable(value)
    if origin is tuple:
        return _items_fit(value, parts) if isinstance(value, (tuple, list)) else False
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _is_listed(value, origin) and (not isinstance(value, Collection) or all(fits(v, parts[0]) for v in value))
    kind = origin or declared
    return isinstance(value, kind) if _is_plain(kind) else True


def plain(value: Any, declared: Any) -> Any:
    """`value` in the one form that all equal ones have: tuples for what is listed, dicts, and Python's own numbers and texts.

    What does not fit the declaration stays as it is.
    """
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return plain(value, parts[0])
    if origin in (Union, types.UnionType):
        return next((plain(value, part) for part in parts if fits(value, part)), value)
    if not fits(value, declared):
        return value
    if declared is int:
        return int(value)
    if declared is float and type(value) not in (int, float):
        return float(value)
    if declared is str:
        return str.__str__(value)  # of an enumeration, too, what it is equal to
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {plain(k, parts[0]): plain(v, parts[1]) for k, v in value.items()}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        unordered = isinstance(value, (set, frozenset)) or origin in (set, frozenset)
        items = sorted(set(value), key=repr) if unordered else value
        inner = parts if origin is tuple and parts[1:] != (...,) else itertools.repeat(parts[0])
        return tuple(plain(item, one) for item, one in zip(items, inner))
    return value


def allowed(declared: Any) -> str:
    """What `declared` takes, to stand behind an option's name: ``of 1 or more``, ``that is True or False``."""
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        named = [name for limit in parts[1:] if isinstance(limit, OneOf) for name in limit.names]
        if named:
            return f"that is {' or '.join(map(repr, named))}"
        if any(isinstance(limit, MinLen) for limit in parts[1:]):
            return f"{allowed(parts[0])}, and not empty"
        return _range(parts[1:]) or allowed(parts[0])
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(map(allowed, parts)))
    if origin is Literal:
        return f"that is {' or '.join(map(repr, parts))}"
    if declared is None or declared is type(None):
        return "None"
    if declared in _PLAIN:
        return _PLAIN[declared]
    if origin is Callable:
        return "that is a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"that is a dict from {' to '.join(allowed(part).removeprefix('that is ') for part in parts)}"
    if origin is not None and parts:
        inner = allowed(parts[0]).removeprefix("that is ").removeprefix("of ")
        return "that is a list" if parts[0] is Any else f"that is a list, each {inner}"
    name = getattr(declared, "__name__", declared)
    if inspect.isabstract(declared):
        return f"that is a {name}, of {', '.join(dict.fromkeys(one.__name__ for one in members(declared)))}"
    return f"that is a {name}"


def members(base: type) -> list[type]:
    """The classes of which a value declared as `base` can be, by name: itself and its public subclasses, none abstract."""
    found = {base, *_subclasses(base)}
    public = [one for one in found if not inspect.isabstract(one) and not one.__name__.startswith("_")]
    return sorted(public, key=lambda one: (one.__name__, one.__module__))


def _subclasses(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [one for child in children for one in (child, *_subclasses(child))]


def choices(declared: Any) -> list[Any]:
    """The values that `declared` names one by one."""
    if get_origin(declared) is Literal:
        return list(get_args(declared))
    if isinstance(declared, OneOf):
        return list(declared.names)
    return [choice for part in get_args(declared) for choice in choices(part)]


def _is_number(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and -(2**63) <= int(value) < 2**63  # others no tensor holds
    return isinstance(value, numbers.Real) and _is_finite(value)


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _within(value: Any, limit: Any) -> bool:
    if isinstance(limit, OneOf):
        return isinstance(value, str) and value in limit.names
    if isinstance(limit, MinLen):
        return len(value) >= limit.min_length
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return True
    tests = {
        Ge: lambda: value >= limit.ge,
        Gt: lambda: value > limit.gt,
        Le: lambda: value <= limit.le,
        Lt: lambda: value < limit.lt,
    }
    return tests.get(type(limit), lambda: True)()


def _range(limits: Iterable[Any]) -> str:
    low = high = None
    for limit in limits:
        if isinstance(limit, (Ge, Gt)):
            low = limit
        elif isinstance(limit, (Le, Lt)):
            high = limit
    if low is not None and high is not None:
        start = f"from {low.ge:g}" if isinstance(low, Ge) else f"above {low.gt:g}"
        return f"{start} to {high.le:g}" if isinstance(high, Le) else f"{start} to below {high.lt:g}"
    if low is not None:
        return f"of {low.ge:g} or more" if isinstance(low, Ge) else f"above {low.gt:g}"
    if high is not None:
        return f"of {high.le:g} or less" if isinstance(high, Le) else f"below {high.lt:g}"
    return ""


def _items_fit(value: Collection[Any], parts: tuple[Any, ...]) -> bool:
    if len(parts) == 2 and parts[1] is ...:
        return all(fits(item, parts[0]) for item in value)
    return len(value) == len(parts) and all(map(fits, value, parts))


def _is_listed(value: Any, origin: type) -> bool:
    """Whether `value` can be read as `origin` is; a text or a dict is no list, and a tuple, as options are kept, is one."""
    if isinstance(value, (str, bytes, Mapping)):
        return False
    kinds: dict[type, tuple[type, ...]] = {list: (list, tuple), set: _LISTS, frozenset: _LISTS}
    if not isinstance(value, kinds.get(origin, (origin,))):
        return False
    try:
        iter(value)  # type: ignore[call-overload]
    except (TypeError, NotImplementedError):  # a tensor of one number says that it can be, and cannot; so do scripted modules
        return False
    return True


def _is_plain(declared: Any) -> bool:
    unknown = getattr(declared, "_is_protocol", False) and not getattr(declared, "_is_runtime_protocol", False)
    return isinstance(declared, type) and not unknown
