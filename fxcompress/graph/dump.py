"""Every view of a graph, written to files: whole ones, or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from torch import fx

from fxcompress.errors import InputError


def dump(
    graph_module: fx.GraphModule, folder: str | Path, stem: str, *, highlight: str | None = None, title: str | None = None
) -> list[Path]:
    """Write ``stem.txt``, ``stem.dot``, ``stem.graphml`` and ``stem.svg`` into `folder`, which is made if need be.

    `highlight` and `title` are those of `draw`. Returns the four paths.

    Raises:
        InputError: the folder or a file cannot be written.
    """
    from fxcompress.graph.drawing import draw
    from fxcompress.graph.text import to_text
    from fxcompress.graph.views import to_dot, to_graphml

    target = Path(folder)
    written = [
        write(target / f"{stem}{suffix}", view(graph_module))
        for suffix, view in ((".txt", to_text), (".dot", to_dot), (".graphml", to_graphml))
    ]
    return [*written, draw(graph_module, target / f"{stem}.svg", highlight=highlight, title=title or stem)]


def write(path: Path, text: str) -> Path:
    """Write `text` under a temporary name, then rename: whoever looks finds the old file or the new one, whole.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; name a folder that you may write to") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
