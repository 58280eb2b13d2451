"""Every view of a graph, written to files."""

from __future__ import annotations

from pathlib import Path

from torch import fx

from fxcompress.storage.atomic import as_path, write_text
from fxcompress.storage.names import file_names
from fxcompress.views.drawing import draw
from fxcompress.views.text import to_text
from fxcompress.views.views import to_dot, to_graphml


def dump(
    graph_module: fx.GraphModule, folder: str | Path, stem: str, *, highlight: str | None = None, title: str | None = None
) -> list[Path]:
    """Write ``stem.txt``, ``stem.dot``, ``stem.graphml`` and ``stem.svg`` into `folder`, which is made if need be.

    `highlight` and `title` are those of `draw`. Returns the four paths. A file is written whole or not at all.

    Raises:
        InputError: the folder or a file cannot be written.
    """
    target = as_path(folder)
    written = [
        write_text(target / f"{stem}{suffix}", view(graph_module))
        for suffix, view in ((".txt", to_text), (".dot", to_dot), (".graphml", to_graphml))
    ]
    return [*written, draw(graph_module, target / f"{stem}.svg", highlight=highlight, title=title or stem)]


def dump_step(graph_module: fx.GraphModule, folder: Path, position: int, name: str) -> list[Path]:
    """Write every view of the graph after step `position`, the pass that prints as `name`; step 0 is the capture."""
    short = name.partition("(")[0]
    (stem,) = file_names([short]).values()
    return dump(graph_module, folder, f"{position:02d}-{stem}", highlight=short if position else None, title=name)
