"""A document: plain data, and on which line of which file each value stands."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fxcompress.documents import json_text, toml_text, yaml_text
from fxcompress.documents.limits import LARGEST_FILE, Key, Parsed, ParseProblem
from fxcompress.errors import ConfigError

PARSERS = {
    ".yaml": yaml_text.parse,
    ".yml": yaml_text.parse,
    ".json": json_text.parse,
    ".jsonc": json_text.parse,
    ".toml": toml_text.parse,
}

_POINTER = re.compile(r"version \S+\noid sha256:")
"""How a pointer begins, by the specification of Git LFS."""


@dataclass(frozen=True)
class Document:
    """What a file holds.

    Attributes:
        value: dicts, lists, texts, numbers, booleans and None.
        name: of the file, for messages.
        lines: for keys, the line, from 1, on which each stands. A key is the path of names and positions to a value.
    """

    value: Any
    name: str = ""
    lines: Mapping[Key, int] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """``file.yaml:12: passes[0].Quantize``: the line is that of the innermost part of `key` whose line is known."""
        known = next((key[:end] for end in range(len(key), -1, -1) if key[:end] in self.lines), None)
        line = "" if known is None else f":{self.lines[known]}"
        place = f"{self.name}{line}" if self.name else ""
        return ": ".join(filter(None, (place, spelled(key))))

    def fail(self, key: Key, problem: str) -> NoReturn:
        """Raise ConfigError for the value at `key`."""
        raise ConfigError(": ".join(filter(None, (self.where(key), problem))))


def spelled(key: Key) -> str:
    """``passes[0].Quantize`` for ``("passes", 0, "Quantize")``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def load_document(path: str | os.PathLike[str]) -> Document:
    """The document in the file at `path`, whose suffix says its format.

    Raises:
        ConfigError: there is no such file, it is of another format, too large, or not well formed; names the line.
    """
    file = Path(path)
    if file.suffix.lower() not in PARSERS:
        raise ConfigError(f"{file}: a configuration is a file of {', '.join(PARSERS)}, not {file.suffix or 'without a suffix'}")
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # pipes and devices may have no end
            raise ConfigError(f"{file}: cannot be read: it is {'a folder' if file.is_dir() else 'no ordinary file'}")
        if found.st_size > LARGEST_FILE:
            raise ConfigError(f"{file}: {found.st_size} bytes are too many for a configuration ({LARGEST_FILE} at most)")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{file}: it is no text in UTF-8: {problem.reason} at byte {problem.start}") from None
    except OSError as problem:
        raise ConfigError(f"{file}: cannot be read: {problem.strerror}") from None
    if _POINTER.match(text):
        raise ConfigError(f"{file}: only a pointer of Git LFS to the file, not the file; fetch it with: git lfs pull")
    return parse_document(text, file.suffix, str(path))


def parse_document(text: str, suffix: str = ".yaml", name: str = "") -> Document:
    """The document that `text` is, in the format of files with this `suffix`.

    Raises:
        ConfigError: it is not well formed; names the line.
    """
    try:
        parsed: Parsed = PARSERS[suffix.lower()](text)
    except ParseProblem as problem:
        place = f"{name}:{problem.line}: " if name else f"line {problem.line}: "
        raise ConfigError(f"{place}{problem.text}") from None
    try:
        json.dumps(parsed.value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name or 'the text'}: it holds half a character (a lone surrogate, \\ud800 to \\udfff)") from None
    return Document(parsed.value, name, parsed.lines)
