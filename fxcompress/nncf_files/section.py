"""One object of an NNCF file: its keys are taken one by one, and what is left over is an error."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fxcompress.documents import Document, Key
from fxcompress.documents.document import spelled
from fxcompress.errors import did_you_mean
from fxcompress.pattern.call_paths import EXPRESSION
from fxcompress.pattern.scopes import OPTIONAL


class Section:
    """An object at `key` of `document`, whose keys are those that someone has asked for.

    Attributes:
        notes: shared by all sections of a file: what was ignored, key by key, and why.
    """

    def __init__(self, document: Document, key: Key, value: Any, notes: list[str]):
        self.document, self.key, self.notes = document, key, notes
        if not isinstance(value, dict):
            self.document.fail(key, f"this is an object, not {value!r:.60}")
        self.given: Mapping[str, Any] = value
        self.known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        self.known.add(name)
        return name in self.given

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise ConfigError for the key `name`."""
        self.document.fail((*self.key, name), problem)

    def note(self, name: str, why: str) -> None:
        self.notes.append(f"{spelled((*self.key, name))}: {why}")

    def ignore(self, name: str, why: str) -> None:
        """Note that `name` is ignored, where it is given."""
        if name in self:
            self.note(name, f"ignored: {why}")

    def text(self, name: str, default: str | None = None, *, of: Sequence[str] = ()) -> str | None:
        value = self.given.get(name, default) if name in self else default
        if value is None and name not in self.given:
            return None
        if not isinstance(value, str):
            self.fail(name, f"this is a text, not {value!r:.60}")
        if of and value not in of:
            self.fail(name, f"there is no {value!r}{did_you_mean(value, of)}; there are {', '.join(map(repr, of))}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.given.get(name, default) if name in self else default
        if not isinstance(value, bool):
            self.fail(name, f"this is true or false, not {value!r:.60}")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        value = self.given[name] if name in self else default
        if value is None and name not in self.given:
            return None
        if not is_number(value):
            self.fail(name, f"this is a number, not {value!r:.60}")
        return value

    def whole(self, name: str, default: int | None = None) -> int | None:
        value = self.number(name, default)
        if value is not None and value != int(value):
            self.fail(name, f"this is a whole number, not {value!r}")
        return None if value is None else int(value)

    def numbers(self, name: str, default: Sequence[float]) -> list[float]:
        value = self.given[name] if name in self else list(default)
        if not isinstance(value, list) or not all(map(is_number, value)):
            self.fail(name, f"this is a list of numbers, not {value!r:.60}")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """One text or a list of them; None where the key is not given."""
        if name not in self:
            return None
        value = self.given[name]
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            self.fail(name, f"this is a text or a list of them, not {value!r:.60}")
        return tuple(listed)

    def scopes(self, name: str) -> tuple[str, ...] | None:
        """As `texts`, of scopes, which may be expressions."""
        listed = self.texts(name)
        for one in listed or ():
            self.check_scope(name, one)
        return listed

    def check_scope(self, name: str, scope: str) -> None:
        """Raise ConfigError for the key `name` where `scope` is an expression that cannot be read."""
        try:
            re.compile(scope.replace(EXPRESSION, "") if EXPRESSION in scope else "")
        except re.error as problem:
            self.fail(name, f"{scope!r} is no regular expression: {problem}")

    def section(self, name: str) -> Section | None:
        """The object at `name`; None where the key is not given."""
        return self.inner(name, self.given[name]) if name in self else None

    def inner(self, name: str, value: Any, *more: int) -> Section:
        self.known.add(name)
        return Section(self.document, (*self.key, name, *more), value, self.notes)

    def done(self) -> None:
        """Raise ConfigError for a key that nobody has asked for."""
        for name in self.given:
            if name not in self.known:
                what = (
                    f"NNCF has no key {name!r} here{did_you_mean(name, self.known)}; there are {', '.join(sorted(self.known))}"
                )
                self.fail(name, what)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number of a size that floats have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def unchecked(scope: str) -> str:
    """The scope of a part of an algorithm, of which NNCF did not check whether it names something: expressions may not."""
    return f"{OPTIONAL}{scope}" if EXPRESSION in scope else scope


class Scopes:
    """The scopes that an algorithm ignores, and those that it keeps to: its own and the file's.

    `of_part` ones are of its weights, of its activations, or of some ranges: see `unchecked`.
    """

    def __init__(self, section: Section, outer: Scopes | None = None, *, of_part: bool = False):
        ignored, targets = section.scopes("ignored_scopes") or (), section.scopes("target_scopes")
        if of_part:
            ignored = tuple(map(unchecked, ignored))
            targets = None if targets is None else tuple(map(unchecked, targets))
        if not section.flag("validate_scopes", True):
            ignored = tuple(f"{OPTIONAL}{one}" for one in ignored)
            targets = None if targets is None else tuple(f"{OPTIONAL}{one}" for one in targets)
        self.ignored: tuple[str, ...] = (*(outer.ignored if outer else ()), *ignored)
        self.targets: tuple[str, ...] | None = targets if targets is not None else (outer.targets if outer else None)

    def options(self) -> dict[str, Any]:
        """As options of a pass."""
        return {"ignored": self.ignored, "scopes": self.targets}
