"""Names of files for what people call things: a part of a model, a pass."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 100


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """For each of `texts` the name of a file or folder, without a suffix, each once, in no folder but its own."""
    names: dict[str, str] = {}
    for text in texts:
        wanted = name = re.sub(r"[^\w.-]+", "_", text)[:_LONGEST].lstrip(".") or "_"
        count = 0
        while name.lower() in {taken.lower() for other, taken in names.items() if other != text}:
            count += 1
            name = f"{wanted}_{count}"
        names[text] = name
    return names
