"""TOML."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

from fxcompress.documents.limits import Key, Parsed, ParseProblem

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_ENTRY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"([^"]*)"|'([^']*)'""")


def parse(text: str) -> Parsed:
    """The value that the TOML `text` is, with the line of each key that starts one.

    Raises:
        ParseProblem: it is not well formed, or says a key twice.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        found = re.search(r"\(at line (\d+), ", str(problem))
        line = int(found[1]) if found else text.count("\n") + 1
        raise ParseProblem(f"this is no TOML: {str(problem).partition(' (at ')[0]}", line) from None
    except RecursionError:
        raise ParseProblem("it is nested too deep", 1) from None
    except ValueError as problem:  # a whole number of thousands of digits
        raise ParseProblem(f"this is no TOML: {str(problem).partition(';')[0]}", 1) from None
    return Parsed(value, _lines(text))


def _lines(text: str) -> dict[Key, int]:
    """tomllib keeps no positions, so headers and the keys that begin lines are looked up in the text."""
    lines: dict[Key, int] = {(): 1}
    tables: Counter[Key] = Counter()
    table: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _below_arrays(_parts(header[2]), tables)
            if header[1] == "[[":
                lines.setdefault(table, number)
                tables[table] += 1
                table = (*table, tables[table] - 1)
            lines.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            lines.setdefault((*table, *_parts(entry[1])), number)
    return lines


def _parts(dotted: str) -> Key:
    return tuple(part[1] or part[2] or part[0].strip("\"'") for part in _PART.finditer(dotted))


def _below_arrays(key: Key, tables: Counter[Key]) -> Key:
    """`key` with the position of the last table wherever it goes through an array of them."""
    full: Key = ()
    for position, part in enumerate(key):
        full = (*full, part)
        if position < len(key) - 1 and tables[full]:
            full = (*full, tables[full] - 1)
    return full
