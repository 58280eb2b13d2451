"""Files that appear whole or not at all.

A file is written into a folder of its own beside its place, brought to the disk, and then renamed over the old one. An
interrupted write, or one that SIGTERM ends, leaves the old file as it was and nothing beside it; what SIGKILL leaves, the next
write to the same path sweeps. A device, a pipe and what a link points to are written through.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fxcompress.errors import InputError
from fxcompress.storage.interruption import deferred, removed_by_sigterm, unfinished
from fxcompress.storage.locks import SECONDS, locked, try_lock, unlock

PathLike = str | os.PathLike[str]


def as_path(path: Any) -> Path:
    """`path` as a `Path`.

    Raises:
        InputError: it is no text, empty, or holds a character that no path has.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or not _can_be_encoded(text):
        raise InputError(f"a path is a text that is not empty, or a pathlib.Path, not {path!r:.80}")
    return Path(text)


def as_file(path: Any) -> Path:
    """`path` as the `Path` of a file.

    Raises:
        InputError: as `as_path`, or it ends as that of a folder, which a `Path` does not show.
    """
    target = as_path(path)
    if os.path.basename(os.fspath(path)) in ("", os.curdir):
        raise InputError(f"cannot write {os.fspath(path)}: it names a folder; give the path of a file in it")
    return target


def _can_be_encoded(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def check_writable(path: PathLike) -> Path:
    """`path` as a `Path`, once it is known that a file can be written there. Call it before any long work.

    Raises:
        InputError: it is no path of a file, the folder does not exist or cannot be written to, or the path is a folder.
    """
    target = as_file(path)
    try:
        _check_target(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _check_target(target: Path) -> None:
    place = real_place(target)
    if place.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file in it")
    if not place.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {place.parent} does not exist; create it first")
    if _is_read_only(place):
        raise InputError(f"cannot write {target}: the file that is there is read-only")
    if not is_replaced(place):
        return
    try:
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {target}: no file can be made in {place.parent} ({error.strerror})") from error


def _is_read_only(place: Path) -> bool:
    """Whether a file is there that cannot be written to, and not one that another writer takes away at this moment."""
    before = _status(place)
    if before is None or os.access(place, os.W_OK):
        return False
    after = _status(place)
    return after is not None and os.path.samestat(before, after)


def takes_files_beside(target: Path) -> bool:
    """Whether a file with others beside it can be written there: not to a device or a pipe.

    Raises:
        InputError: the system does not say.
    """
    try:
        return is_replaced(real_place(target))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def real_place(target: Path) -> Path:
    """Where `target` leads, through links; where to a device or a pipe, itself: some links to pipes name no file."""
    if not target.is_symlink() or (target.exists() and not target.is_file() and not target.is_dir()):
        return target
    place = Path(os.path.realpath(target))
    if place.is_symlink():
        raise OSError(errno.ELOOP, "its links lead in a circle")
    return place


def is_replaced(place: Path) -> bool:
    """Whether a new file takes this place; devices and pipes are written to."""
    old = _status(place)
    return old is None or stat.S_ISREG(old.st_mode)


def _status(place: Path) -> os.stat_result | None:
    """What is there, looked at once, since another writer may take it away at any time; None for nothing."""
    try:
        return place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def replacing(
    *paths: PathLike, withdrawn: bool = False, obsolete: Callable[[], Iterable[Path]] | None = None
) -> Iterator[list[Path]]:
    """Temporary paths, of the names given, to write files to that take the places of `paths` when the block ends well.

    They are renamed in their order, so that the last one can refer to the others. When the block does not end well, they stay
    as they are. Owner and mode of a file stay, as far as the system lets a process set them.

    Args:
        paths: in one folder, unless they are links.
        withdrawn: take the old last file away before the others change, since it would be read together with them.
        obsolete: files to remove once the new ones are there.

    Raises:
        InputError: as `check_writable`, or the disk cannot take a file (`OSError` while writing).
    """
    targets = [check_writable(path) for path in paths]
    try:
        with _folder_beside(real_place(targets[-1])) as folder:
            parts = [folder / target.name for target in targets]
            yield parts
            for part, target in zip(parts, targets):
                _finish(part, real_place(target))
            with locked(real_place(targets[-1]).parent), deferred():
                if withdrawn and is_replaced(real_place(targets[-1])):
                    real_place(targets[-1]).unlink(missing_ok=True)
                for part, target in zip(parts, targets):
                    _put(part, real_place(target))
                _sync(real_place(targets[-1]).parent)
                for path in obsolete() if obsolete else ():
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {targets[-1]}: {error.strerror or error}") from error


@contextmanager
def passing_folder(name: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder for what is needed in the block alone; it goes with the block, and with a process that SIGTERM ends.

    What SIGKILL leaves goes with the next one of the same `name`.

    Args:
        parent: where it is; None for the system's folder of passing files.
    """
    stack = ExitStack()
    with removed_by_sigterm():
        try:
            try:
                with deferred():
                    folder = _new_folder(parent, name, stack) / "files"  # the one above is locked: files are written here
                    folder.mkdir()
                yield folder
            finally:
                _close(stack)
        finally:  # a signal may have come before the first call could make it wait
            _close(stack)


def _folder_beside(place: Path) -> AbstractContextManager[Path]:
    """A passing folder on the disk of `place`, for a file that takes it."""
    return passing_folder(place.name, place.parent if is_replaced(place) else None)


def _close(stack: ExitStack) -> None:
    with deferred():
        stack.close()


def _new_folder(parent: Path | None, name: str, stack: ExitStack) -> Path:
    """A new folder, locked, which `stack` removes."""
    prefix = f".{name[:100]}.writing-"
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        unfinished.add(folder)
        stack.callback(unfinished.discard, folder)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lock = try_lock(folder, SECONDS)  # another may have taken it for one that was left, and be about to sweep it
        if folder.exists():
            break
        unlock(lock)
    stack.callback(unlock, lock)
    for other in folder.parent.iterdir() if lock is not None else ():
        if other.name.startswith(prefix) and other != folder:
            _sweep(other)
    return folder


def _sweep(folder: Path) -> None:
    """Remove `folder` unless a process is still writing into it."""
    with suppress(OSError):
        lock = try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            unlock(lock)


def _finish(part: Path, place: Path) -> None:
    """Give the written `part` the owner and the mode of the file in its `place`, and bring it to the disk."""
    if not is_replaced(place):
        return
    old, new = _status(place), part.stat()
    if old is not None:
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            with suppress(PermissionError):
                os.chown(part, old.st_uid, old.st_gid)
        part.chmod(stat.S_IMODE(old.st_mode))
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _put(part: Path, place: Path) -> None:
    """Move `part` to its `place`, or write it into what is there."""
    if is_replaced(place):
        try:
            os.replace(part, place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with _folder_beside(place) as folder:  # `place` is on another disk than the last of the files
                near = Path(shutil.copy2(part, folder))
                _finish(near, place)
                os.replace(near, place)
        return
    with part.open("rb") as source, place.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _sync(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: PathLike, text: str) -> Path:
    """Write `text` to the file `path` in UTF-8, whole or not at all, and return the path. Folders are made if need be.

    What UTF-8 does not have, half a pair of surrogates in a name, is written as an escape.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    target = as_file(path)
    make_folder(target.parent)
    with replacing(target) as (part,):
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return target


def make_folder(path: PathLike) -> Path:
    """The folder `path`, made with those above it where it does not exist.

    Raises:
        InputError: it is no path, or cannot be made.
    """
    folder = as_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; name one that you may write to") from error
    return folder
