"""The C source of a kernel as a library, compiled once for each user, compiler, processor and version of the source.

Libraries lie in ``$XDG_CACHE_HOME/fxcompress`` (``~/.cache/fxcompress``), in folders that only their user can enter. The name
of one carries the digest of what it holds, which is compared before it is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fxcompress.storage.atomic import passing_folder
from fxcompress.storage.locks import locked

SECONDS = 20
"""What a compiler may take; it takes one or two."""

_FAILED, _RETRIED_AFTER = "failed.txt", 24 * 3600
_SHOWN = 500  # of what a compiler that failed said


class CompilationError(Exception):
    """There is no library: what went wrong."""


def find_compiler() -> str | None:
    """The path of a C compiler; entries of ``PATH`` that depend on the current folder do not count."""
    path = os.pathsep.join(entry for entry in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(entry))
    return next(filter(None, (shutil.which(name, path=path) for name in ("cc", "gcc", "clang"))), None) if path else None


def load_library(source: Path, flags: Sequence[str], links: Sequence[str]) -> ctypes.CDLL | None:
    """The library of `source`, compiled with `flags` and linked with `links` unless it lies there; None without a compiler.

    Raises:
        CompilationError: the compiler failed, also if it did so in another process within a day, or took too long.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        folder = _folder_for(source, compiler, [*flags, *links])
        if folder is None:
            with passing_folder("fxcompress-kernel") as passing:
                return ctypes.CDLL(str(_compile(source, compiler, flags, links, passing)))
        with locked(folder):
            library = _found(folder)
            if library is None:
                _raise_recent_failure(folder)
                library = _compiled(source, compiler, flags, links, folder)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilationError(str(error)) from error


def _folder_for(source: Path, compiler: str, options: list[str]) -> Path | None:
    """The folder for the library, this user's alone; None where there cannot be one."""
    real = os.stat(compiler)
    parts = [source.read_text(), os.path.realpath(compiler), real.st_size, real.st_mtime_ns, *options, _processor()]
    key = hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogatepass")).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(OSError, RuntimeError):  # no home, or one that cannot be written to
        root = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "fxcompress"
        folder = root / f"kernel-{key}"
        root.parent.mkdir(parents=True, exist_ok=True)
        for one in (root, folder):
            one.mkdir(mode=0o700, exist_ok=True)
        if all(map(_is_private, (root, folder))) and os.access(folder, os.W_OK):
            return folder
    return None


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _processor() -> str:
    """What tells processors with other instructions apart."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))
    return platform.processor()


def _found(folder: Path) -> Path | None:
    """The library in `folder`, if it holds what its name says; others are removed, and what is no file is passed by."""
    for path in sorted(folder.glob("*.so")):
        if path.is_symlink() or not path.is_file():
            continue
        if path.stem == _digest(path):
            return path
        path.unlink(missing_ok=True)
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _raise_recent_failure(folder: Path) -> None:
    failure = folder / _FAILED
    if failure.exists() and time.time() - failure.stat().st_mtime < _RETRIED_AFTER:
        raise CompilationError(f"{failure.read_text(errors='replace').strip()} (remove {failure} to try again)")


def _compiled(source: Path, compiler: str, flags: Sequence[str], links: Sequence[str], folder: Path) -> Path:
    """The new library in `folder`."""
    with passing_folder("kernel", folder) as passing:
        try:
            made = _compile(source, compiler, flags, links, passing)
        except CompilationError as error:
            (folder / _FAILED).write_text(f"{error}\n")
            raise
        library = folder / f"{_digest(made)}.so"
        os.replace(made, library)
        return library


def _compile(source: Path, compiler: str, flags: Sequence[str], links: Sequence[str], folder: Path) -> Path:
    compiled, library = folder / "kernel.o", folder / "kernel.so"
    end = time.monotonic() + SECONDS
    for command in (
        [compiler, *flags, "-c", str(source), "-o", str(compiled)],
        [compiler, "-shared", str(compiled), "-o", str(library), *links],
    ):
        _run(command, folder, end - time.monotonic())
    return library


def _run(command: list[str], folder: Path, seconds: float) -> None:
    """Run `command` in `folder` for so long at most, or end it with what it started."""
    told = folder / "messages"  # a file: whoever holds a pipe open is waited for, and fills memory
    with told.open("wb") as messages:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": messages}
        with subprocess.Popen(command, cwd=folder, start_new_session=True, **options) as process:  # type: ignore[call-overload]
            try:
                process.wait(timeout=seconds)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise CompilationError(f"{command[0]} did not end in {SECONDS} s") from None
                raise
    if process.returncode:
        with told.open("rb") as messages:
            first = messages.read(_SHOWN).decode(errors="replace").strip().partition("\n")[0]
        raise CompilationError(f"{command[0]} ended with {process.returncode}: {first or 'no message'}")
