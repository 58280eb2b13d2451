"""Options as they would be written: the fields of a dataclass that its user has set."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def short_repr(options: Any) -> str:
    """The call that makes the dataclass instance `options`: ``QuantizationSpec(bits=4)``, without what is as by default.

    It is the same text in every process, for functions too.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options)}
    shown = [f"{f.name}={_shown(given[f.name])}" for f in fields(options) if given[f.name] != f.default]
    return f"{type(options).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if type(value) is tuple:
        return f"[{', '.join(map(repr, value))}]"
    return getattr(value, "__qualname__", None) or repr(value)
