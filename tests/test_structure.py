"""The plan of the house: rooms in one order, each says what it is for, and no import runs against the order."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"fxcompress": "fxcompress", "fxcompress.passes": "passes", "fxcompress.patterns": "patterns"}

ROOMS = [  # each imports only those before it; "fxcompress" is what a user imports first
    *("errors", "options", "documents", "moved", "report", "storage", "ir", "views", "pattern", "rewrite", "data", "capture"),
    *("masks", "quantizers", "binarization", "targets", "execution", "quantization", "channels", "sparsity", "training"),
    *("driver", "emit", "conformance", "measure", "patterns", "passes"),
    *(
        "defaults",
        "nncf_files",
        "config",
        "compiled",
        "parts",
        "compiler",
        "integrations",
        "inplace",
        "fxcompress",
        "compat",
        "demo",
    ),
    *("fxcompress", "compat", "demo", "commands", "cli", "__main__"),
]
TOP = {"__init__", "compiler", "compiled", "parts", "defaults", "errors", "cli", "moved", "__main__"}
LINES = 300


def modules():
    """Every module of the package, by its full name, with its file."""
    found = {}
    for name, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [name, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


@functools.cache
def imported(module):
    """The modules of the package that `module` imports, wherever in its code."""
    return tuple(_imported(module))


def _imported(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        else:
            continue
        for name in full:
            target = name if name in MODULES else name.rpartition(".")[0]
            if target in MODULES and target != module:
                yield target


def room(module):
    return [*module.split("."), "fxcompress"][1] if module != "fxcompress" else "fxcompress"


def room_imports():
    """For each room the rooms that it imports."""
    found = {}
    for module in MODULES:
        found.setdefault(room(module), set()).update(map(room, imported(module)))
    return {name: others - {name} for name, others in found.items()}


def test_every_room_has_its_place_in_the_order():
    assert {room(module) for module in MODULES} == set(ROOMS)


def test_no_import_runs_against_the_order():
    place = {name: position for position, name in enumerate(ROOMS)}
    assert [
        f"{module} imports {other}"
        for module in MODULES
        for other in imported(module)
        if place[room(other)] > place[room(module)]
    ] == []


def test_no_files_import_one_another_in_a_circle():
    graph = networkx.DiGraph([(module, other) for module in MODULES for other in imported(module)])
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_the_top_holds_what_a_user_imports_and_nothing_else():
    assert {path.stem for path in (ROOT / "fxcompress").glob("*.py")} <= TOP


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.stem == "__init__"])
def test_every_room_says_what_it_is_for(package):
    text = ast.get_docstring(ast.parse(MODULES[package].read_text())) or ""
    assert text.partition("\n")[0].endswith(".")


@pytest.mark.parametrize("name", [name for name in ROOMS if (ROOT / "fxcompress" / name).is_dir()])
def test_every_room_says_what_comes_in_what_goes_out_and_what_it_imports(name):
    text = " ".join(ast.get_docstring(ast.parse(MODULES[f"fxcompress.{name}"].read_text())).split())
    assert re.search(r" In: .+\. Out: .+\. Imports: ", text)
    imports = [other for other in ROOMS if other in room_imports()[name] - {"errors", "fxcompress"}]
    assert text.endswith(f" Imports: {', '.join(imports) or 'errors'}.")


def test_no_file_has_more_lines_than_fit_in_a_head():
    long = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: lines for module, lines in long.items() if lines > LINES} == {}


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == {name for name, path in MODULES.items() if path.stem == "__init__"}


NEIGHBOURS = {"all_input_nodes", "users", "uses", "producer", "predecessors", "successors"}
NEAR = {"rank_of"}
"""Searches that call themselves, but only within what one call was translated to: what a call puts out has a shape."""


def _searches_paths(function):
    """Whether a function looks at neighbours in a graph and calls itself."""
    within = list(ast.walk(function))
    looks = any(isinstance(one, ast.Attribute) and one.attr in NEIGHBOURS for one in within)
    return looks and any(isinstance(one, ast.Name) and one.id == function.name for one in within)


def test_no_search_in_a_graph_calls_itself():
    """It would take as long as there are paths, and end where the stack does; `fxcompress.ir.reach` is for that."""
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions if _searches_paths(function)} == NEAR
