"""Write docs/api.md, the reference of public names, from their signatures and docstrings: python -m docs.write_api"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "api.md"
MODULES = {
    "fxcompress": "What a user calls first.",
    "fxcompress.passes": "Passes, in the order of the alphabet; [passes.md](passes.md) says what they are for.",
    "fxcompress.defaults": "The lists of passes that are taken where none is given.",
    "fxcompress.training": "Schedules, controllers and loops of training.",
    "fxcompress.targets": "Runtimes.",
    "fxcompress.data.images": "Calibration data from files of one input.",
    "fxcompress.data.archive": "Calibration data from files of several inputs.",
    "fxcompress.measure.sensitivity": "What each quantized place costs.",
    "fxcompress.measure.latency": "How long files take.",
    "fxcompress.errors": "Errors and warnings.",
}


def page() -> str:
    """The whole reference."""
    lines = ["# Reference", "", "Written from the docstrings by `python -m docs.write_api`; change them, not this page.", ""]
    lines += [f"* [{name}](#{name.replace('.', '')}): {told}" for name, told in MODULES.items()]
    for name, told in MODULES.items():
        lines += ["", f"## {name}", "", told]
        for member, found in members(importlib.import_module(name)):
            lines += ["", f"### {member}", "", *described(member, found)]
            for method, one in methods(found):
                lines += ["", f"#### {member}.{method}", "", *described(method, one)]
    return "\n".join(lines) + "\n"


def members(module: Any) -> Iterator[tuple[str, Any]]:
    """The public classes and functions of a module: what it lists, or else what it defines."""
    names = getattr(module, "__all__", None) or [
        name for name, one in vars(module).items() if not name.startswith("_") and _defined_in(one, module.__name__)
    ]
    for name in names if module.__name__ == "fxcompress.errors" else sorted(names, key=str.lower):
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            yield name, found


def methods(found: Any) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of this package defines and describes."""
    for name, one in vars(found).items() if inspect.isclass(found) else ():
        function = one.__func__ if isinstance(one, (classmethod, staticmethod)) else one
        is_shown = inspect.isfunction(function) or isinstance(function, property)
        if is_shown and not name.startswith("_") and inspect.getdoc(function):
            yield name, function


def described(name: str, found: Any) -> list[str]:
    """How it is called, and its docstring."""
    text = inspect.getdoc(found) or ""
    if text.startswith(f"{getattr(found, '__name__', name)}("):  # a dataclass without a docstring
        text = ""
    called = [] if isinstance(found, property) else [_signature(name, found), ""]
    return ["```text", *called, *text.splitlines(), "```"]


def _signature(name: str, found: Any) -> str:
    try:
        signature = str(inspect.signature(found))
    except (TypeError, ValueError):
        return name
    text = re.sub(r"<function [^<>]*(?:<\w+>)?[^<>]*>|<factory>", "...", signature)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("(self, ", "(").replace("(self)", "()")
    return name + text.replace("(cls, ", "(").removesuffix(" -> None")


def _defined_in(one: Any, module: str) -> bool:
    return getattr(one, "__module__", None) == module


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
