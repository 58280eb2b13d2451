"""The arguments of a call in a pattern, by the names of the operation's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fxcompress.errors import PatternError, did_you_mean
from fxcompress.ir.signature import REQUIRED, Signature, signature
from fxcompress.pattern.opnames import target_name


def bind(target: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """What each argument of `target` must be, by name in the schema's order, and the names that may be anything.

    A trailing ``...`` waives all that is not given, ``keyword=...`` that one; what is neither must be the default.

    Raises:
        PatternError: too many arguments, one given twice, an unknown keyword, or a missing required one.
    """
    label, declared = target_name(target), signature(target)
    lax = bool(args) and args[-1] is ...
    given = _by_name(label, declared, args[:-1] if lax else args, kwargs)
    waived = {name for name, value in given.items() if value is ...}
    waived |= set(declared.names) - set(given) if lax else set()
    required = {name for name, default in zip(declared.names, declared.defaults) if default is REQUIRED}
    missing = [name for name in declared.names if name in required - set(given) - waived]
    if missing:
        raise PatternError(f"{label} needs {', '.join(missing)}; add them, or a trailing ... to match any")
    return {name: given[name] for name in declared.names if name in given and name not in waived}, frozenset(waived)


def _by_name(label: str, declared: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > declared.positional:
        takes = ", ".join(declared.names[: declared.positional])
        raise PatternError(f"{label} takes {declared.positional} positional arguments ({takes}), not {len(args)}")
    if any(value is ... for value in args):
        raise PatternError(f"{label}: ... may only be the last positional argument, or a keyword's value")
    given = dict(zip(declared.names, args))
    for keyword, value in kwargs.items():
        if keyword not in declared.names:
            hint = did_you_mean(keyword, declared.names)
            raise PatternError(f"{label} has no argument {keyword!r}{hint}; it takes {', '.join(declared.names)}")
        if keyword in given:
            raise PatternError(f"{label} is given {keyword!r} twice, by position and by keyword")
        given[keyword] = value
    return given
