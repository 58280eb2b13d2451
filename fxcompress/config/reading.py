"""Options from a document: each as its class declares it, or an error that says where it stands and what may."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

from fxcompress.config.kinds import alternatives, direct, imported, is_options, known, needed
from fxcompress.documents import Document, Key
from fxcompress.errors import ConfigError, FxCompressError, did_you_mean
from fxcompress.options.declared import declarations
from fxcompress.options.kinds import allowed, choices, fits

_LONGEST = 80


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the values of `document`; classes outside this library only where `allow_imports` is set."""

    document: Document
    allow_imports: bool = False

    def value(self, given: Any, declared: Any, key: Key) -> Any:
        """What `given`, which stands at `key`, means where `declared` is asked for.

        Raises:
            ConfigError: nothing; names the file, the line, the key, and what is allowed.
        """
        found = self._found(given, declared, key)
        if isinstance(found, float) and found.is_integer() and not fits(found, declared):
            found = int(found)  # 3.0 is a whole number, as JSON's schemas have it
        if not fits(found, declared):
            self._refuse(given, declared, key)
        return found

    def _found(self, given: Any, declared: Any, key: Key) -> Any:
        types = alternatives(declared)
        objects = [one for one in types if is_options(one)]
        if fits(given, declared) and not isinstance(given, (dict, list)):
            return given
        for one in types:
            origin = get_origin(one)
            if isinstance(given, dict) and isinstance(origin, type) and issubclass(origin, Mapping):
                return {name: self.value(item, get_args(one)[1], (*key, name)) for name, item in given.items()}
            if isinstance(given, list) and isinstance(origin, type) and issubclass(origin, Iterable):
                return self._items(given, one, key)
            if one is Callable or origin is Callable or getattr(origin, "__name__", "") == "Callable":
                self.document.fail(key, "a function cannot stand in a file; give it in Python: config.given(...)")
        if objects and isinstance(given, (dict, str)):
            return self._object(given, declared, objects, key)
        return given

    def _items(self, given: list[Any], declared: Any, key: Key) -> tuple[Any, ...]:
        parts = get_args(declared)
        if get_origin(declared) is tuple and parts[1:] != (...,):
            if len(parts) != len(given):
                self.document.fail(key, f"it has {len(parts)} items, not {len(given)}")
            inner = list(parts)
        else:
            inner = [parts[0]] * len(given)
        return tuple(self.value(item, one, (*key, i)) for i, (item, one) in enumerate(zip(given, inner)))

    def _object(self, given: dict[str, Any] | str, declared: Any, bases: list[type], key: Key) -> Any:
        """The object that `given` is: a name, ``{name: options}``, or options alone where there is one class only."""
        names = {name: one for base in bases for name, one in known(base).items()}
        name, options, inner = (given, {}, key) if isinstance(given, str) else self._named(given, names, key)
        one = names.get(name) if name is not None else direct(declared)
        if one is None and name is not None and ":" in name:
            one = self._imported(name, bases, key)
        if one is None:
            self.document.fail(key, f"{_nameless(given, bases, name, names)}; there are {', '.join(sorted(names))}")
        return self.call(one, options, inner)

    @staticmethod
    def _named(given: dict[str, Any], names: Mapping[str, type], key: Key) -> tuple[str | None, Any, Key]:
        """The name that `given` begins with, the options below it, and where these stand; no name where there is none."""
        name = next(iter(given), None)
        if len(given) == 1 and name is not None and (name in names or ":" in name or name[:1].isupper()):
            return name, given[name] if given[name] is not None else {}, (*key, name)
        return None, given, key

    def _imported(self, name: str, bases: list[type], key: Key) -> type:
        if not self.allow_imports:
            self.document.fail(
                key,
                f"{name!r} is outside this library, and reading it would run its code: say allow_imports=True, or "
                "--allow-imports, to allow it",
            )
        try:
            return imported(name, bases[0])
        except FxCompressError as problem:
            self.document.fail(key, str(problem))

    def call(self, one: Callable[..., Any], options: Any, key: Key) -> Any:
        """As `object`, of options that may be of any type; nothing below a name is none of them."""
        if not isinstance(options, dict | None):
            self.document.fail(key, f"the options of {one.__name__} are a mapping, not {shown(options)}")
        return self.object(one, options or {}, key)

    def object(self, one: Callable[..., Any], options: Mapping[str, Any], key: Key) -> Any:
        """What the class or the function `one` makes of `options`, which stand at `key`."""
        declared = declarations(one)
        for name in options:
            if name not in declared:
                there = f"; there are {', '.join(declared)}" if declared else ", nor any other"
                self.document.fail((*key, name), f"{one.__name__} has no option {name!r}{did_you_mean(name, declared)}{there}")
        missing = [name for name in needed(one) if name not in options]
        if missing:
            self.document.fail(key, f"{one.__name__} needs {', '.join(missing)}")
        read = {name: self.value(given, declared[name], (*key, name)) for name, given in options.items()}
        try:
            return one(**read)
        except ConfigError:
            raise
        except FxCompressError as problem:
            self.document.fail(key, str(problem))

    def _refuse(self, given: Any, declared: Any, key: Key) -> None:
        hint = did_you_mean(given, [c for c in choices(declared) if isinstance(c, str)]) if isinstance(given, str) else ""
        hint = hint or (f"; write [{given!r}]" if fits([given], declared) else "")
        self.document.fail(key, f"needs a value {allowed(declared)}, got {shown(given)}{hint}")


def _nameless(given: Any, bases: list[type], name: str | None, names: Mapping[str, type]) -> str:
    """What is wrong with `given`, which is none of `names`."""
    if name is not None:
        return f"there is no {bases[0].__name__} {name!r}{did_you_mean(name, names)}"
    first = next((one for one in given if one in names), None)
    if first is not None:
        rest = ", ".join(repr(one) for one in given if one != first)
        return f"{rest} stands beside {first}, not below it: options stand below the name, further to the right"
    return f"a {bases[0].__name__} is a name, or a mapping from one to its options, not {shown(given)}"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"a {type(value).__name__}"
