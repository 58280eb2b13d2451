"""Files that appear whole or not at all.

A file is written under a temporary name in its own folder and then renamed over the old one, so that an interrupted
write leaves the old file as it was and nothing beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fxcompress.errors import InputError


def check_writable(path: str | os.PathLike[str]) -> Path:
    """`path` as a `Path`, once it is known that a file can be written there. Call it before any long work.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file in it")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {target}: no file can be made in {target.parent} ({error.strerror})") from error
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"cannot write {target}: the file that is there is read-only")
    return target


@contextmanager
def replacing(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Temporary paths, of the names given, to write files to that take the places of `paths` when the block ends well.

    All `paths` are in one folder; they are renamed in their order. When the block does not end well, they stay as they are.

    Raises:
        InputError: as `check_writable`, or the disk cannot take a file (`OSError` while writing).
    """
    targets = [check_writable(path) for path in paths]
    try:
        with tempfile.TemporaryDirectory(dir=targets[0].parent, prefix=f".{targets[0].name}.") as folder:
            parts = [Path(folder, target.name) for target in targets]
            yield parts
            for part, target in zip(parts, targets):
                if target.exists():
                    part.chmod(target.stat().st_mode & 0o777)
                os.replace(part, target)
    except OSError as error:
        raise InputError(f"cannot write {targets[-1]}: {error.strerror or error}") from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` to the file `path` in UTF-8, whole or not at all, and return the path. Folders are made if need be.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}; name a folder that you may write to") from error
    with replacing(target) as (part,):
        part.write_text(text, encoding="utf-8", newline="\n")
    return target
