"""The C kernel: compiled once a user, loaded if it is what was compiled, and never needed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from fxcompress.quantizers import compilation, native
from fxcompress.quantizers.kernels import kernel_for
from fxcompress.quantizers.straight_through import FakeQuantize

needs_compiler = pytest.mark.skipif(compilation.find_compiler() is None, reason="there is no C compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "loaded", None)
    return tmp_path / "cache" / "fxcompress"


def compiler(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def failing(message: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"without their C kernel, more slowly: .*{message}") as told:
        assert native.load.__wrapped__() is None
    assert len(told) == 1


@needs_compiler
def test_the_library_is_compiled_once_and_compared_before_it_is_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.load.__wrapped__() is not None
    (folder,) = cache.iterdir()
    (library,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == cache.stat().st_mode & 0o777 == 0o700
    whole, inode = library.read_bytes(), library.stat().st_ino
    assert native.load.__wrapped__() is not None and library.stat().st_ino == inode
    library.unlink()
    library.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert native.load.__wrapped__() is not None
    (loaded,) = folder.iterdir()
    assert loaded.stem == hashlib.sha256(loaded.read_bytes()).hexdigest(), "not the one with another byte"


@needs_compiler
@pytest.mark.parametrize("what", ["open to all", "another's", "a link", "a file"])
def test_a_folder_that_others_can_write_to_is_not_used(what: str, cache: Path, tmp_path: Path) -> None:
    if what == "another's" and os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    cache.parent.mkdir()
    if what == "a file":
        cache.write_text("")
    elif what == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        cache.symlink_to(tmp_path / "theirs")
    else:
        cache.mkdir(mode=0o700)
        os.chown(cache, 12345, 12345) if what == "another's" else cache.chmod(0o777)
    assert native.load.__wrapped__() is not None
    assert what == "a file" or not [path for path in cache.rglob("*") if path.is_file()]


def test_a_compiler_that_hangs_is_ended_with_its_children_and_tried_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path / "bin", f"sleep 1000 & echo $! > {tmp_path}/child; echo again >> {tmp_path}/runs; wait")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(compilation, "SECONDS", 1)
    for _ in range(2):
        failing("did not end in 1 s")
    assert (tmp_path / "runs").read_text() == "again\n"
    child = Path("/proc", (tmp_path / "child").read_text().strip())
    for _ in range(100):
        if not child.exists() or "(zombie)" in (child / "status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child lives on")


@needs_compiler
def test_a_compiler_is_done_when_it_ends_whatever_it_left_behind(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches of compilers start a server, which holds on to what they were given to write to."""
    compiler(tmp_path / "bin", 'sleep 30 & exec /usr/bin/env -u TMP PATH="$REST" cc "$@"')
    monkeypatch.setenv("REST", os.environ["PATH"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    started = time.monotonic()
    assert native.load.__wrapped__() is not None and time.monotonic() - started < compilation.SECONDS / 2


@needs_compiler
@pytest.mark.parametrize("what", ["a folder", "a link to nothing", "a link to itself", "a pipe", "a link to another library"])
def test_what_lies_in_the_folder_and_is_no_library_is_passed_by(what: str, cache: Path, tmp_path: Path) -> None:
    assert native.load.__wrapped__() is not None
    (folder,) = cache.iterdir()
    (library,) = folder.iterdir()
    library.rename(tmp_path / "theirs.so")
    place = folder / "0.so" if "library" not in what else library
    if what == "a folder":
        place.mkdir()
    elif what == "a pipe":
        os.mkfifo(place)
    else:
        place.symlink_to({"nothing": "none", "itself": place, "library": tmp_path / "theirs.so"}[what.split()[-1]])
    assert native.load.__wrapped__() is not None
    assert any(path.is_file() and not path.is_symlink() for path in folder.iterdir())


@needs_compiler
@pytest.mark.parametrize("source", ["int other(void) { return 0; }", "no C at all"])
def test_a_library_without_the_functions_and_a_source_that_does_not_compile_are_done_without(
    source: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernel.c").write_text(source)
    monkeypatch.setattr(native, "SOURCE", tmp_path / "kernel.c")
    failing("undefined symbol: forward" if "other" in source else "ended with 1")
    x = torch.randn(5)
    grid = torch.tensor(0.1), None, None, None, (-8, 7), 1.0
    assert torch.equal(FakeQuantize.apply(x, *grid), (x / 0.1).round().clamp(-8, 7) * 0.1)


def test_nothing_in_the_current_folder_is_run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path / "here", f"touch {tmp_path}/ran; exit 1")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "../here"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load.__wrapped__() is None
    assert not (tmp_path / "ran").exists()


@needs_compiler
def test_two_processes_make_one_library(cache: Path) -> None:
    command = [sys.executable, "-c", "from fxcompress.quantizers import native; assert native.load()"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(cache.glob("*/*"))) == 1


@needs_compiler
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_grids_of_other_types_and_strides_give_the_same_numbers(per: str) -> None:
    kernel, x = native.load(), torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    shape = (6, 1) if per == "channel" else ()
    scale, point = torch.rand(shape) * 0.1 + 0.05, torch.randint(0, 9, shape).float()
    wide = torch.stack([scale, scale + 5], -1)[..., 0], torch.stack([point, point + 5], -1)[..., 0]
    plain = (torch.clamp((x / scale).round() + point, -20, 20) - point) * scale
    assert kernel_for(x, scale, point) is kernel
    for scales, points in (wide, (scale, wide[1]), (scale, point.int()), (scale, point.double()), (scale, point.half())):
        torch.testing.assert_close(FakeQuantize.apply(x, scales, points, None, None, (-20, 20), 1.0), plain)
    assert kernel_for(x, scale, point.int()) is None and kernel_for(x, scale.double(), None) is None
    assert kernel_for(x, scale, point[:1] if per == "channel" else point.view(1)) is None
    assert kernel_for(x.double(), scale, point) is None


def test_training_makes_the_kernel_and_inference_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(native, "load", lambda: made.append("C"))
    x, grid = torch.randn(5), (torch.tensor(0.1), None, None, None, (-8, 7), 1.0)
    FakeQuantize.apply(x, *grid)
    assert not made
    FakeQuantize.apply(x.requires_grad_(), *grid)
    assert made == ["C"]


def test_what_is_kept_for_the_backward_pass_is_the_input_itself() -> None:
    x, kept = torch.randn(5, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.data_ptr()), lambda one: one):
        FakeQuantize.apply(x, torch.tensor(0.1), None, None, None, (-8, 7), 1.0)
    assert kept == [x.data_ptr()]


@needs_compiler
@pytest.mark.parametrize("negative", ["x", "scale", "gradient"])
def test_views_that_torch_negates_where_it_reads_them_are_not_read_as_memory(negative: str) -> None:
    assert native.load() is not None
    random = torch.Generator().manual_seed(0)
    given = {
        "x": torch.randn(6, 40, generator=random),
        "scale": torch.tensor(0.1),
        "gradient": torch.randn(6, 40, generator=random),
    }
    results = []
    for made in (given, {**given, negative: torch._neg_view(-given[negative])}):
        x, extent = made["x"].detach().requires_grad_(), torch.tensor(0.8, requires_grad=True)
        result = FakeQuantize.apply(x, made["scale"], None, None, extent, (-8, 7), 1.0)
        results.append((result, *torch.autograd.grad(result, (x, extent), made["gradient"])))
    torch.testing.assert_close(*results)
