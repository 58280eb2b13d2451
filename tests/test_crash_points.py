"""Writes that end at any line of their code: by a signal, by an interrupt, by an error of the system, or at once."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fxcompress.emit.files import write_onnx
from fxcompress.errors import InputError
from fxcompress.storage.atomic import replacing, write_text

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are copies of this one")

STEP = int(os.environ.get("FXCOMPRESS_CRASH_STEP", "29"))
"""A run tries every so many lines, others in each run; 1 for all."""

TRACED = ("/contextlib.py", "storage/atomic.py", "storage/interruption.py", "storage/locks.py", "emit/files.py")


def write_one(folder: Path, text: str) -> None:
    write_text(folder / "one.txt", text)


def write_pair(folder: Path, text: str) -> None:
    with replacing(folder / "m.bin", folder / "m.xml", withdrawn=True) as parts:
        for part in parts:
            part.write_text(text)


def write_with_data(folder: Path, text: str) -> None:
    """A model whose weights, 2,000 bytes that `text` tells apart, lie beside it."""
    x, y = ir.Value(name="x", shape=ir.Shape([500]), type=ir.TensorType(ir.DataType.FLOAT)), ir.Value(name="y")
    weight = ir.Value(name="weight", const_value=ir.tensor([float(ord(text[0]))] * 500, name="weight"))
    node = ir.Node("", "Add", [x, weight], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[weight], opset_imports={"": 20}, name="graph")
    write_onnx(ir.Model(graph, ir_version=9), folder / "m.onnx", largest_file=100)


def read_one(folder: Path) -> str:
    return (folder / "one.txt").read_text()


def read_pair(folder: Path) -> str | None:
    """What the pair holds; None where a reader refuses it, since there is no graph."""
    if not (folder / "m.xml").exists():
        return None
    graph, weights = (folder / "m.xml").read_text(), (folder / "m.bin").read_text()
    assert graph == weights, "a graph with the weights of another"
    return graph


def read_with_data(folder: Path) -> str:
    weight = ir.load(folder / "m.onnx").graph.initializers["weight"].const_value
    assert weight is not None
    (value,) = set(weight.numpy().tolist())
    return {"o": "old", "n": "new"}[chr(int(value))]


Write, Read = Callable[[Path, str], None], Callable[[Path], str | None]
KINDS: dict[str, tuple[Write, Read, int]] = {  # and how many files there are
    "one file": (write_one, read_one, 1),
    "a pair": (write_pair, read_pair, 2),
    "a model with weights beside it": (write_with_data, read_with_data, 2),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def in_copy(action: Callable[[], None], line: int, at_line: Callable[[], None]) -> tuple[bool, int]:
    """Run `action` in a copy of this process, and `at_line` before its line of that number, of those that write files.

    Returns whether it got there, and how the process ended, as `os.waitstatus_to_exitcode` has it.
    """
    ready, told = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries are not copied, and not needed
        child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame, event, _argument):  # type: ignore[no-untyped-def]
            nonlocal lines
            if not frame.f_code.co_filename.endswith(TRACED):
                return None
            if event == "line":
                lines += 1
                if lines == line:
                    os.write(told, b"!")
                    at_line()
            return trace

        status = 3
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.settrace(trace)
            action()
            status = 0
        except KeyboardInterrupt:
            status = 2
        except InputError:
            status = 4
        finally:
            sys.settrace(None)
            os._exit(status)
    os.close(told)
    _, ended = os.waitpid(child, 0)
    reached = os.read(ready, 1) == b"!"
    os.close(ready)
    return reached, os.waitstatus_to_exitcode(ended)


def some_lines(action: Callable[[], None], at_line: Callable[[], None], first: int) -> Iterator[int]:
    """Let `action` come to `at_line` at every `STEP`-th line from its `first`; how each of these processes ended."""
    for line in range(first, 4000, STEP):
        reached, ended = in_copy(action, line, at_line)
        if not reached:
            assert line > 200, "no line was seen"
            return
        yield ended


@kinds
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@settings(max_examples=1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(1, STEP))
def test_a_signal_at_any_line_leaves_what_was_there_or_what_comes(kind: str, number: int, tmp_path: Path, first: int) -> None:
    write, read, files = KINDS[kind]
    write(tmp_path, "old")
    ends = set()
    for ended in some_lines(lambda: write(tmp_path, "new"), lambda: os.kill(os.getpid(), number), first):
        ends.add(ended)
        found = read(tmp_path)
        assert found in (("old", "new", None) if number == signal.SIGKILL and kind == "a pair" else ("old", "new"))
        if number != signal.SIGKILL:
            assert len(os.listdir(tmp_path)) == files, "something is left behind"
        write(tmp_path, "old")
        assert read(tmp_path) == "old" and len(os.listdir(tmp_path)) == files
    assert ends == ({2} if number == signal.SIGINT else {-number})


CALLS = [(name, errno.ENOSPC) for name in ("mkdir", "open", "fsync", "replace", "stat", "chmod", "unlink")]


@kinds
@pytest.mark.parametrize(("name", "code"), [*CALLS, ("fsync", errno.EIO), ("replace", errno.EACCES)])
def test_a_call_of_the_system_that_fails_is_our_error_and_leaves_what_was_there(
    kind: str, name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or broken disk, at the first such call, the second, ..., until there are no more."""
    write, read, files = KINDS[kind]
    original = getattr(os, name)
    for fails_at in range(1, 100):
        write(tmp_path, "old")
        calls = 0

        def failing(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == fails_at:  # noqa: B023
                raise OSError(code, os.strerror(code))
            return original(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            try:
                write(tmp_path, "new")
                failed = False
            except InputError as error:
                failed = True
                assert os.strerror(code) in str(error) and str(tmp_path) in str(error)
        found = read(tmp_path)
        assert found == "new" if not failed else found in ("old", "new", None)
        assert found is not None or kind == "a pair"
        write(tmp_path, "old")
        assert len(os.listdir(tmp_path)) == files
        if calls < fails_at:
            return
    raise AssertionError(f"{name} is called for ever")


@kinds
def test_a_file_that_may_not_grow_is_our_error(kind: str, tmp_path: Path) -> None:
    """A limit on sizes, as a full disk has it, met in the middle of what writes: torch, onnx, or Python."""
    resource = pytest.importorskip("resource")
    write, read, files = KINDS[kind]
    write(tmp_path, "old")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        write(tmp_path, "new")

    _, ended = in_copy(limited, 0, lambda: None)
    assert ended == 4
    assert read(tmp_path) == "old" and len(os.listdir(tmp_path)) == files


@kinds
def test_two_processes_write_at_once_and_a_third_reads(kind: str, tmp_path: Path) -> None:
    """A reader finds one of the two files, or none at all for a moment, and in the end one of the two is there."""
    write, read, files = KINDS[kind]
    write(tmp_path, "old")

    def often(text: str) -> Callable[[], None]:
        return lambda: [write(tmp_path, text) for _ in range(12)] and None  # type: ignore[func-returns-value]

    ends: list[int] = []
    copy = lambda text: ends.append(in_copy(often(text), 0, lambda: None)[1])  # noqa: E731
    writers = [threading.Thread(target=copy, args=(text,)) for text in ("old", "new")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with contextlib.suppress(FileNotFoundError):  # between two looks at the folder both may have gone on
            assert kind == "a pair" or read(tmp_path) in ("old", "new")
    for writer in writers:
        writer.join()
    assert ends == [0, 0]
    assert read(tmp_path) in ("old", "new") and len(os.listdir(tmp_path)) == files
