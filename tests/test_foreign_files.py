"""Files that others wrote, damaged in any way: each is read, or refused in words of ours."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress.commands.models import load_model
from fxcompress.data.archive import ArchiveFile
from fxcompress.data.images import ArrayFile, ImageFolder
from fxcompress.emit.inspect import inspect_onnx
from fxcompress.errors import InputError


def array(path: Path) -> None:
    np.save(path, np.ones((5, 4), np.float32))


def archive(path: Path) -> None:
    np.savez(path, x=np.ones((5, 4), np.float32))


def picture(path: Path) -> None:
    pytest.importorskip("PIL.Image").new("RGB", (9, 7)).save(path)


def model(path: Path) -> None:
    compiled = fxcompress.compile(nn.Linear(4, 4), data=[torch.randn(2, 4)])
    compiled.to_onnx(path, verify=False)


def program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), strict=False), path)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "a.npy": (array, lambda path: [*ArrayFile(path, (4,))]),
    "a.npz": (archive, lambda path: [*ArchiveFile(path)]),
    "a.png": (picture, lambda path: [*ImageFolder(path.parent, (3, 4, 4))]),
    "a.jpg": (picture, lambda path: [*ImageFolder(path.parent, (3, 4, 4))]),
    "a.webp": (picture, lambda path: [*ImageFolder(path.parent, (3, 4, 4))]),
    "a.onnx": (model, inspect_onnx),
    "a.pt2": (program, lambda path: load_model(str(path), trust=True)),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Callable[[Path], Any]]:
    write, read = KINDS[request.param]
    path = tmp_path_factory.mktemp("file") / request.param
    write(path)
    return path, path.read_bytes(), read


def damaged(whole: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    return draw.choice(
        [
            whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :],
            whole[:place],
            whole[:place] + draw.randbytes(draw.randrange(9)) + whole[place + draw.randrange(9) :],
        ]
    )


def damaged_inside(whole: bytes, draw: random.Random) -> bytes:
    """An archive with right checksums one of whose files is damaged; another file is damaged as such."""
    if not zipfile.is_zipfile(io.BytesIO(whole)):
        return damaged(whole, draw)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(made, "w") as sink:
        held = {name: source.read(name) for name in source.namelist()}
        victim = draw.choice([name for name, content in held.items() if content])
        for name, content in held.items():
            sink.writestr(name, damaged(content, draw) if name == victim else content)
    return made.getvalue()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), inside=st.booleans())
def test_damaged_files_are_read_or_refused_in_our_words(
    kind: tuple[Path, bytes, Callable[[Path], Any]], seed: int, inside: bool
) -> None:
    path, whole, read = kind
    path.write_bytes((damaged_inside if inside else damaged)(whole, random.Random(seed)))
    try:
        read(path)
    except InputError as error:
        assert str(path) in str(error)


def test_what_is_in_an_archive_and_no_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", b"no array")
    with pytest.raises(InputError, match="no samples in x"):
        ArchiveFile(tmp_path / "a.npz")
