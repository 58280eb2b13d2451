"""The sentence of documentation of each option, which stands in its class's docstring and nowhere else."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^[ ]{4}(\w+(?:, \w+)*): (.*(?:\n[ ]{5,}.*)*)", re.MULTILINE)


def sentences(owner: type) -> dict[str, str]:
    """What the docstrings of `owner`, and of the classes that it derives from, say of its options, by name."""
    found: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        for section in _SECTION.findall((inspect.cleandoc(one.__doc__) if one.__doc__ else "") + "\n"):
            for names, text in _ENTRY.findall(section):
                found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def summary(owner: type) -> str:
    """The first sentence of the docstring of `owner`."""
    return " ".join((inspect.getdoc(owner) or "").partition("\n\n")[0].split())
