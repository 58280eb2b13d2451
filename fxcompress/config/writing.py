"""Options as plain data, from which `fxcompress.config.reading` makes equal ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from fxcompress.config.kinds import alternatives, direct, is_options, name_of
from fxcompress.errors import ConfigError
from fxcompress.options import Declared
from fxcompress.options.declared import declarations
from fxcompress.options.kinds import fits, plain


def value(one: Any, declared: Any, place: str) -> Any:
    """`one`, which stands in `place`, as plain data to be read where `declared` is asked for.

    Raises:
        ConfigError: it cannot be written; says what and where.
    """
    if one is None or isinstance(one, bool):
        return one
    if isinstance(one, (int, float)):
        return int(one) if isinstance(one, int) else float(one)
    if isinstance(one, str):
        return str.__str__(one)
    if isinstance(one, Declared):
        if not any(map(is_options, alternatives(declared))):
            raise ConfigError(f"{place} cannot be written: {name_of(type(one))} is read only where it is declared")
        options = written_options(one, place)
        if type(one) is direct(declared):
            return options
        return {name_of(type(one)): options} if options else name_of(type(one))
    kind = next((part for part in alternatives(declared) if fits(one, part)), Any)
    parts = get_args(kind)
    if isinstance(one, Mapping):
        if not all(isinstance(name, str) for name in one):
            raise ConfigError(f"{place} cannot be written: its keys are not all texts, but {list(one)!r:.80}")
        return {name: value(item, parts[1] if parts else Any, f"{place}[{name!r}]") for name, item in one.items()}
    if isinstance(one, (list, tuple)):
        fixed = get_origin(kind) is tuple and parts[1:] != (...,)
        inner = parts if fixed else (parts[0] if parts else Any,) * len(one)
        return [value(item, part, f"{place}[{i}]") for i, (item, part) in enumerate(zip(one, inner))]
    if callable(one):
        raise ConfigError(f"{place} cannot be written: a file holds no functions; leave it out, and give it in Python again")
    raise ConfigError(f"{place} cannot be written: a file holds no {type(one).__name__}, such as {one!r:.80}")


def written_options(one: Any, place: str) -> dict[str, Any]:
    """The options of the dataclass instance `one` that are not as by default."""
    if not dataclasses.is_dataclass(one):
        if vars(one):
            raise ConfigError(f"{place} cannot be written: {type(one).__name__} is no dataclass, so its options are not known")
        return {}
    declared = declarations(type(one))
    missing = [f.name for f in dataclasses.fields(one) if f.init and f.name not in declared]
    if missing:
        raise ConfigError(f"{place} cannot be written: {type(one).__name__} does not declare the types of {', '.join(missing)}")
    given = {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.init}
    return {
        f.name: value(given[f.name], declared[f.name], f"{place}.{f.name}")
        for f in dataclasses.fields(one)
        if f.init and not _is_default(f, declared[f.name], given[f.name])
    }


def _is_default(field: dataclasses.Field[Any], declared: Any, given: Any) -> bool:
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    default = plain(default, declared)
    return type(default) is type(given) and bool(default == given)
