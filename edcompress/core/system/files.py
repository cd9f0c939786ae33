"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edcompress.core.errors import InputError, StorageError

UNFINISHED_FILES = ".*.[0-9]*.[0-9]*.part"
"""What a process leaves that is killed while it writes."""

FEWER_FILES = "raise the limit on open files (ulimit -n), or lower data.workers"

_WAYS_OUT = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that you may write",
    errno.ENOENT: "its folder is gone",
    errno.EISDIR: "a folder is in its place",
    errno.EMFILE: FEWER_FILES,
    errno.ENFILE: FEWER_FILES,
    errno.ELOOP: "a symbolic link is in its place; delete the link",
    errno.ENXIO: "a pipe or socket is in its place; delete it",
}

_OWN_FILE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Open for writing, neither through a symbolic link nor waiting for the other end of a pipe."""


def special_kind(path: Path) -> str | None:
    """What lies at `path` itself that is neither an ordinary file nor a folder, such as "symbolic link"; None where nothing such is."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "device, pipe or socket"


def require_file_place(path: Path, option: str, suffix: str = "") -> None:
    """Raise InputError if `option` names a path where no file with this suffix can be written."""
    if path.exists() and not path.is_file():
        what = "folder" if path.is_dir() else "device, pipe or socket"
        raise InputError(f"{option} {path} is a {what}; name a file{f' that ends in {suffix}' if suffix else ''}")
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".")
        raise InputError(f"{option} {path}: the file is written as {kind}; name it {path.with_suffix(suffix)}")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {path}: {path.parent} cannot be written in; choose another folder")


def require_new_file(path: Path, option: str, suffix: str = "", *, force: bool) -> None:
    """Raise InputError unless `option` names a path for a new file with this suffix; with `force` it may replace a file."""
    require_file_place(path, option, suffix)
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise InputError(f"{option} {path} exists; choose another file, or overwrite it with --force")


def require_utf8(path: Path) -> None:
    """Raise InputError for a name that is not UTF-8: reports hold text alone, and onnxruntime opens no such file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        way_out = "rename it" if encoding == "utf-8" else f"file names are {encoding} in this locale: set PYTHONUTF8=1"
        raise InputError(f"{path} is not a name in UTF-8; {way_out}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to: it takes the place of `path` when the block ends, and is gone when the block fails.

    The file is on the disk before it takes the place, so that a power cut leaves one of the two whole. StorageError where it cannot
    be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")  # see UNFINISHED_FILES
    with writing(path):
        try:
            part.touch(exist_ok=False)
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)  # safetensors puts a file of its own there, which only its owner may read
            fsync_file(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def scratch_beside(part: Path) -> Iterator[Path]:
    """A folder beside a part of `replacing`, for a library that makes files of its own beside what it writes; gone when the block ends."""
    folder = part.with_suffix(".0.part")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove what processes left that were killed while they wrote."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`; StorageError where the system does not let it."""
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, "see to its disk")
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; {way_out}") from error


def append(path: Path, line: str) -> None:
    """Add a line to a log; StorageError where it cannot be written, or is a link, pipe or device."""
    with writing(path), open(os.open(path, _OWN_FILE | os.O_APPEND, 0o666), "a", encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        file.write(line + "\n")


def fsync_file(path: Path) -> None:
    """Have what was written to a file, if there is one, on the disk; StorageError where that fails."""
    if path.is_file():
        with writing(path), path.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; StorageError where it cannot be written."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
