"""Finished rows, kept in a JSON file, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fxcompress.storage.atomic import write_text


@dataclass(frozen=True)
class Row:
    """What one trained and emitted model turned out to be.

    Attributes:
        network, method, seed: which model.
        epochs, images: of its training.
        accuracy: percent of the test images, of the trained model in torch.
        openvino_accuracy: likewise, of the emitted file in OpenVINO.
        weight_bits: mean over the weights of convolutions and linear layers.
        zeros: the share, 0 to 1, of the file's weights that are zero.
        multiply_adds: for one image.
        file_bytes, packed_bytes: of the file, and of the file compressed with zlib.
        file: its path, within the laboratory's folder.
    """

    network: str
    method: str
    seed: int
    epochs: int
    images: int
    accuracy: float
    openvino_accuracy: float
    weight_bits: float
    zeros: float
    multiply_adds: int
    file_bytes: int
    packed_bytes: int
    file: str

    @property
    def key(self) -> str:
        """Of the model."""
        return f"{self.network}, {self.method}, seed {self.seed}"


class Ledger:
    """The rows in the JSON file `path`, in the order in which they were finished; it is written at every `add`.

    Args:
        path: of the file; it need not exist.
        settings: what all rows have in common. Rows of other settings are not comparable.
        fresh: leave out the rows that are there, of whatever settings.

    Raises:
        SystemExit: the file has rows of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, int | None], *, fresh: bool = False):
        self.path, self.settings = path, dict(settings)
        self._rows: dict[str, Row] = {}
        if path.exists() and not fresh:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["settings"] != self.settings:
                raise SystemExit(
                    f"{path} has rows of other settings: {stored['settings']}, not {self.settings}; "
                    "train everything anew (--fresh), or name another folder (--folder)"
                )
            self._rows = {row.key: row for row in (Row(**one) for one in stored["rows"])}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def clear(self) -> None:
        """Drop all rows."""
        self._rows.clear()
        self._write()

    def find(self, key: str) -> Row | None:
        """The row of this key, if it is finished."""
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        """Keep `row`, in place of an older one of the same model."""
        self._rows[row.key] = row
        self._write()

    def _write(self) -> None:
        content = {"settings": self.settings, "rows": [asdict(one) for one in self.rows]}
        write_text(self.path, json.dumps(content, indent=1) + "\n")
