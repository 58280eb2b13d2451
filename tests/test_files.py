"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fxcompress.errors import InputError
from fxcompress.storage import atomic as files
from fxcompress.storage.atomic import check_writable, replacing, write_text


def test_what_fails_leaves_the_old_files(tmp_path: Path) -> None:
    paths = tmp_path / "graph.txt", tmp_path / "graph.svg"
    with replacing(*paths) as parts:
        for part in parts:
            part.write_text("old")
    with pytest.raises(RuntimeError), replacing(*paths) as parts:
        parts[0].write_text("half")
        raise RuntimeError
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert sorted(os.listdir(tmp_path)) == ["graph.svg", "graph.txt"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"graph\.txt: No space left"), replacing(tmp_path / "graph.txt") as (part,):
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_texts_make_their_folder_and_keep_line_ends(tmp_path: Path) -> None:
    path = write_text(tmp_path / "deep" / "er" / "graph.txt", "N → 4\n")
    assert path.read_bytes() == "N → 4\n".encode()
    with pytest.raises(InputError, match=r"cannot write .*name a folder that you may write to"):
        write_text(path / "graph.txt", "below a file")


def test_unwritable_paths_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the folder .*missing does not exist; create it first"):
        check_writable(tmp_path / "missing" / "model.onnx")
    with pytest.raises(InputError, match="it is a folder"):
        check_writable(tmp_path)

    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    with pytest.raises(InputError, match="no file can be made in .* \\(Permission denied\\)"):
        check_writable(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_permissions_are_those_of_a_new_file_or_of_the_old_one(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    made = write_text(tmp_path / "made", "new")
    assert made.stat().st_mode == plain.stat().st_mode
    made.chmod(0o600)
    assert write_text(made, "newer").stat().st_mode & 0o777 == 0o600
