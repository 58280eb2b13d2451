"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fxcompress.config import Config
from fxcompress.emit.files import check_onnx_path
from fxcompress.emit.openvino import check_openvino_path
from fxcompress.errors import InputError
from fxcompress.measure.sensitivity import check_report_path
from fxcompress.storage import atomic as files
from fxcompress.storage import locks
from fxcompress.storage.atomic import check_writable, make_folder, passing_folder, replacing, write_text
from fxcompress.storage.interruption import deferred
from fxcompress.storage.locks import try_lock, unlock


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
    with pytest.raises(InputError, match=r"cannot make the folder .*name one that you may write to"):
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


@pytest.mark.parametrize("path", [None, 3, b"model.onnx", "", "a\0b", ["x"], Path, 1.5])
def test_what_is_no_path_is_refused(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (check_writable, lambda path: write_text(path, "text"), make_folder):
        with pytest.raises(InputError, match=r"a path is a text that is not empty, or a pathlib\.Path, not"):
            write(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["/", "//", "/."])
def test_what_ends_as_a_folder_does_is_no_file(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    of_files = {"new": (check_writable, check_onnx_path, lambda path: write_text(path, "text"))}
    of_files["new.xml"] = (check_openvino_path,)
    of_files["new.yaml"] = (Config(passes=[]).dump,)
    of_files["new.md"] = (check_report_path,)
    for name, writers in of_files.items():
        for write in writers:
            with pytest.raises(
                InputError, match=rf"cannot write {name}{end}: it names a folder; give the path of a file in it"
            ):
                write(name + end)
    assert not list(tmp_path.iterdir())
    assert make_folder(f"new{end}").is_dir()


def test_names_that_the_system_refuses_are_our_own_errors(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path / ("x" * 300), loop, Path("x/" * 3000)):
        with pytest.raises(InputError, match="cannot write|cannot make"):
            write_text(path, "text")


def test_links_devices_and_pipes_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for existing in (True, False):
        real, link = tmp_path / "real" / f"file{existing}", tmp_path / f"link{existing}"
        if existing:
            real.write_text("old")
        link.symlink_to(real)
        write_text(link, "new")
        assert link.is_symlink() and real.read_text() == "new"
    write_text(os.devnull, "gone")
    assert not Path(os.devnull).is_file()
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(10)
    assert found == ["through"] and (tmp_path / "pipe").is_fifo()
    with pytest.raises(InputError, match="No space left on device"):
        write_text("/dev/full", "x" * 10**6)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = write_text(tmp_path / "file", "old")
    os.chown(path, 12345, 23456)
    path.chmod(0o2640)
    found = write_text(path, "new").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (12345, 23456, 0o2640)


def test_the_old_file_is_withdrawn_first_where_it_would_be_read_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    replace = os.replace

    def watched(part: Path, place: Path) -> None:
        seen.append(sorted(f"{path.name} {path.read_text()}" for path in tmp_path.glob("m.*")))
        replace(part, place)

    monkeypatch.setattr(os, "replace", watched)
    for text in ("old", "new"):
        with replacing(tmp_path / "m.bin", tmp_path / "m.xml", withdrawn=True) as parts:
            for part in parts:
                part.write_text(text)
    assert seen == [[], ["m.bin old"], ["m.bin old"], ["m.bin new"]]


def test_a_pipe_that_a_link_of_the_system_leads_to_is_written_through() -> None:
    """As with ``--output /dev/stdout | ...``: where that leads is called ``/proc/1/fd/pipe:[2]``, and is no path."""
    command = "from fxcompress.storage.atomic import write_text; write_text('/dev/stdout', 'through')"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout == b"through"


PASSING = """
import os, signal, sys, tempfile, time
from fxcompress.storage.atomic import passing_folder
tempfile.tempdir = sys.argv[1]
with passing_folder("conversion") as folder:
    (folder / "model.onnx").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_passing_folders_end_with_their_process_or_with_the_next_one(tmp_path: Path, number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PASSING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(number)
    assert len(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
    with passing_folder("another", tmp_path):
        assert len(list(tmp_path.iterdir())) == 1 + (number == signal.SIGKILL)
    with passing_folder("conversion", tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_write_into_a_passing_folder_waits_for_no_lock() -> None:
    with passing_folder("conversion") as folder:
        lock = try_lock(folder)
        assert lock is not None
        unlock(lock)


def test_no_folder_is_made_that_a_signal_would_leave() -> None:
    """There is one place that makes them."""
    package = Path(files.__file__).parents[1]
    makes = {
        path.name
        for path in package.rglob("*.py")
        if "TemporaryDirectory(" in path.read_text() or "mkdtemp(" in path.read_text()
    }
    assert makes == {"atomic.py"}


WRITER = """
import os, signal, sys, time
from fxcompress.storage.atomic import replacing
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may have it ignored
with replacing(sys.argv[1]) as (part,):
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_what_a_signal_ends_leaves_nothing_that_the_next_write_does_not_sweep(tmp_path: Path, number: int) -> None:
    path = write_text(tmp_path / "file", "old")
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        write_text(path, "between")  # does not sweep what is being written
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(number)
    assert writer.returncode == -number or number == signal.SIGINT
    assert len(list(tmp_path.iterdir())) == 1 + (number == signal.SIGKILL)
    write_text(tmp_path / "other", "new")
    write_text(path, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as Python handles it, also where whoever runs the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_signals_wait_for_the_renames_to_be_done() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("renamed")
    assert done == ["renamed"]


def test_two_writers_never_mix(tmp_path: Path) -> None:
    """Each round both write a pair, and what is there afterwards is one of them."""

    def write(text: str) -> None:
        for _ in range(10):
            with replacing(tmp_path / "m.bin", tmp_path / "m.xml", withdrawn=True) as parts:
                for part in parts:
                    part.write_text(text)

    writers = [threading.Thread(target=write, args=(text,)) for text in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1 and len(list(tmp_path.iterdir())) == 2


def test_names_change_while_no_other_writer_can_change_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[bool] = []
    replace = os.replace

    def watched(part: Path, place: Path) -> None:
        lock = try_lock(tmp_path)
        alone.append(lock is None)
        unlock(lock)
        replace(part, place)

    monkeypatch.setattr(os, "replace", watched)
    with replacing(tmp_path / "m.bin", tmp_path / "m.xml", withdrawn=True) as parts:
        for part in parts:
            part.write_text("new")
    assert alone == [True, True]


def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS", 0.05)
    with locks.locked(tmp_path):
        assert locks.try_lock(tmp_path) is None
        write_text(tmp_path / "file", "new")
    lock = locks.try_lock(tmp_path)
    assert lock is not None
    locks.unlock(lock)


def test_files_are_on_the_disk_before_they_are_renamed_and_their_names_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int | str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda opened: (done.append(os.fstat(opened).st_ino), sync(opened)))
    monkeypatch.setattr(os, "replace", lambda part, place: (done.append(Path(place).name), replace(part, place)))
    with replacing(tmp_path / "m.bin", tmp_path / "m.xml") as parts:
        for part in parts:
            part.write_text("new")
    written = [(tmp_path / name).stat().st_ino for name in ("m.bin", "m.xml")]
    assert done == [*written, "m.bin", "m.xml", tmp_path.stat().st_ino]


def test_a_look_before_long_work_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    with locks.locked(tmp_path):
        assert check_writable(write_to(tmp_path / "file", "old")) == tmp_path / "file"


@pytest.mark.parametrize("then", ["gone", "replaced"])
def test_a_file_that_another_writer_takes_away_is_not_called_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """It is there at the first look, and not when the system is asked whether it can be written to."""
    path, new = write_to(tmp_path / "file", "old"), write_to(tmp_path / "new", "new")

    def access(place: Path, mode: int) -> bool:
        path.unlink()
        if then == "replaced":
            new.rename(path)
        return False

    monkeypatch.setattr(os, "access", access)
    assert check_writable(path) == path


def write_to(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_writer_outlives_one_that_takes_its_new_folder_for_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another sees the folder before its maker has locked it, and sweeps it."""
    made, swept = tempfile.mkdtemp, []

    def seen(**kwargs: Any) -> str:
        folder = Path(made(**kwargs))
        if not swept:
            lock = locks.try_lock(folder)
            swept.append(threading.Timer(0.1, lambda: (folder.rmdir(), locks.unlock(lock))))
            swept[0].start()
        return str(folder)

    monkeypatch.setattr(tempfile, "mkdtemp", seen)
    assert write_text(tmp_path / "file", "new").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_where_folders_cannot_be_locked_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    write_text(tmp_path / "file", "new")
