"""Where the graph of a part stands in its model, so that scopes name operations as the model has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import fx, nn

_KEY = "place"
"""Stands in the metadata of a graph's output, which every copy of the graph keeps."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a part stands.

    Attributes:
        path: ``"backbone"``.
        calls: the same as call paths have it, ``"Net/Sequential[backbone]"``.
        parts: the graphs of all parts of the model, as captured, this one's among them.
        outside: the modules in none of them, which stay as they are, and those that hold parts: the call path of each, by its
            path.
        called: what those of them call that run, all by their call paths.
    """

    path: str
    calls: str
    parts: tuple[fx.Graph, ...]
    outside: Mapping[str, str]
    called: Mapping[str, Collection[str]]

    def call(self, inside: str) -> str:
        """The call path in the model, of one that begins with the part's own class."""
        return f"{self.calls}/{inside.partition('/')[2]}"

    def scope(self, inside: str) -> str:
        """The module path in the model, of one in the part."""
        return f"{self.path}.{inside}" if inside else self.path


def place_of(graph: fx.Graph) -> Place | None:
    """Where `graph` stands; None for that of a whole model."""
    return graph.output_node().meta.get(_KEY)


def place_parts(model: nn.Module, parts: Mapping[str, fx.Graph], called: Mapping[str, Collection[str]]) -> None:
    """Note in the graphs of all `parts` of `model`, by path, where each stands, and what is `called` outside of them."""
    calls = call_paths(model)
    outside = {path: call for path, call in calls.items() if not _inside(path, parts)}
    copies = {path: _copy(graph) for path, graph in parts.items()}
    for path, graph in parts.items():
        place = Place(path, calls[path], tuple(copies.values()), outside, called)
        for one in (graph, copies[path]):
            one.output_node().meta[_KEY] = place


def _copy(graph: fx.Graph) -> fx.Graph:
    made = fx.Graph()
    made.output(made.graph_copy(graph, {}))
    made.output_node().meta = dict(graph.output_node().meta)
    return made


def _inside(path: str, parts: Iterable[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def call_paths(model: nn.Module) -> dict[str, str]:
    """The call path of each module of `model`, by its path."""
    found = {"": type(model).__name__}
    for path, module in model.named_modules(remove_duplicate=False):
        if path:
            outer, _, name = path.rpartition(".")
            found[path] = f"{found[outer]}/{type(module).__name__}[{name}]"
    return found
