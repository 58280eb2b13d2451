"""Writing a view to a file."""

from __future__ import annotations

import os
from pathlib import Path

from fxcompress.errors import InputError


def write(path: Path, text: str) -> Path:
    """Write `text` under a temporary name, then rename: whoever looks finds the old file or the new one, whole.

    Folders are made if need be. Returns `path`.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; name a folder that you may write to") from error
    return path
