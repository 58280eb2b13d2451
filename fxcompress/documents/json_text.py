"""JSON, with the comments and trailing commas that people write into configurations."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from fxcompress.documents import yaml_text
from fxcompress.documents.limits import Parsed, ParseProblem

_COMMENT = r"//[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/"
_TOKEN = re.compile(rf'"(?:\\.|[^"\\\n])*"|{_COMMENT}|,(?=(?:\s|{_COMMENT})*[}}\]])|\t', re.DOTALL)
"""A text, which stays, or else a comment, a trailing comma or a tab, for which as many spaces and line ends are put.

A comment is matched to its end and no other, so that brackets in one are never taken for those behind a trailing comma.
"""


def parse(text: str) -> Parsed:
    """The value that `text` is, JSON with comments (``//``, ``/* */``), with the line of each key.

    Raises:
        ParseProblem: it is not well formed, or says a key twice.
    """
    plain = _TOKEN.sub(_blank, text)
    try:
        value = json.loads(plain, parse_constant=_no_number, object_pairs_hook=_once)
    except json.JSONDecodeError as problem:
        raise ParseProblem(f"this is no JSON: {problem.msg} (column {problem.colno})", problem.lineno) from None
    except RecursionError:
        raise ParseProblem("it is nested too deep", 1) from None
    except ValueError as problem:  # a whole number of thousands of digits
        raise ParseProblem(f"this is no JSON: {str(problem).partition(';')[0]}", 1) from None
    except _Repeated as problem:
        raise ParseProblem(f"the key {problem.key!r} stands twice in one object", _second(text, problem.key)) from None
    return Parsed(value, _lines(plain))


def _lines(plain: str) -> Any:
    """The line of each key, by YAML's parser, since what is JSON is YAML; none for texts that YAML writes in another way."""
    try:
        return yaml_text.parse(plain).lines
    except ParseProblem as problem:
        if "more than" in problem.text:
            raise
        return {}


def _blank(token: re.Match[str]) -> str:
    text = token.group()
    return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)


class _Repeated(Exception):
    def __init__(self, key: str):
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Repeated(key)
        found[key] = value
    return found


def _second(text: str, key: str) -> int:
    """The line of the second place where `key` stands; the first objects that end are looked at first, so it may be a guess."""
    places = [match.start() for match in re.finditer(rf"{re.escape(json.dumps(key))}\s*:", text)]
    return text.count("\n", 0, places[1] if len(places) > 1 else 0) + 1


def _no_number(text: str) -> NoReturn:
    raise json.JSONDecodeError(f"{text} is no number", "", 0)
