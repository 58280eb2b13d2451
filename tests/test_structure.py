"""Data flows one way: the core knows neither passes nor patterns, and patterns do not know passes."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENTRIES = {"defaults.py", "commands"}  # the default pipelines and the command line: what lists passes


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def offences(folder, forbidden, allowed):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if allowed.isdisjoint(path.parts)
        for name in imports(path)
        if name.startswith(forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("fxcompress", ("fxcompress.passes", "fxcompress.patterns")),
        ("patterns", ("fxcompress.passes", "fxcompress.compiler", "fxcompress.emit")),
        ("passes", ("fxcompress.compiler", "fxcompress.capture", "fxcompress.emit")),
        ("fxcompress/capture", ("fxcompress.pipeline", "fxcompress.quantization", "fxcompress.emit", "fxcompress.rewrite")),
        ("fxcompress/pattern", ("fxcompress.pipeline", "fxcompress.quantization", "fxcompress.emit", "fxcompress.capture")),
        ("fxcompress/emit", ("fxcompress.pipeline", "fxcompress.capture", "fxcompress.rewrite", "fxcompress.pattern")),
        ("fxcompress/quantization", ("fxcompress.pipeline", "fxcompress.capture", "fxcompress.emit")),
        ("fxcompress/binarization", ("fxcompress.pipeline", "fxcompress.capture", "fxcompress.emit", "fxcompress.rewrite")),
        ("fxcompress/channels", ("fxcompress.pipeline", "fxcompress.quantization", "fxcompress.emit", "fxcompress.rewrite")),
        ("fxcompress/training", ("fxcompress.pipeline", "fxcompress.capture", "fxcompress.emit", "fxcompress.compiled")),
        ("fxcompress/graph", ("fxcompress.pipeline", "fxcompress.capture", "fxcompress.emit")),
        ("fxcompress/graph/layout", ("torch",)),
    ],
)
def test_imports_point_one_way(folder, forbidden):
    assert (ROOT / folder).is_dir()
    assert offences(folder, forbidden, ENTRIES) == []


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"fxcompress.patterns", "fxcompress.passes"}
    found |= {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "fxcompress").rglob("__init__.py")}
    assert set(settings["packages"]) == found
