"""Atomic file writes: a file is there completely or not at all."""

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
"""Glob of the files left by a process that was killed while it wrote."""

FEWER_FILES = "raise the limit on open files (ulimit -n), or lower data.workers"

_FIXES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "choose a folder on a writable disk",
    errno.EACCES: "choose a place where you have write permission",
    errno.ENOENT: "its folder is gone",
    errno.EISDIR: "a folder is in its place",
    errno.EMFILE: FEWER_FILES,
    errno.ENFILE: FEWER_FILES,
    errno.ELOOP: "a symbolic link is in its place; delete the link",
    errno.ENXIO: "a pipe or socket is in its place; delete it",
}

_OWN_FILE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags to open a file for writing without following a symbolic link or waiting for the other end of a pipe."""


def special_kind(path: Path) -> str | None:
    """Return what lies at `path` itself, such as "symbolic link"; None where it is an ordinary file, a folder or nothing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "device, pipe or socket"


def require_file_place(path: Path, option: str, suffix: str = "") -> None:
    """Check that a file can be written.

    Args:
        path: The file to write.
        option: The option that names it, for the message.
        suffix: The suffix that its name needs, if any.

    Raises:
        InputError: `path` is a folder, device, pipe or socket, has a different suffix, or its folder is not writable.
    """
    if path.exists() and not path.is_file():
        what = "folder" if path.is_dir() else "device, pipe or socket"
        raise InputError(f"{option} {path} is a {what}; name a file{f' that ends in {suffix}' if suffix else ''}")
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".")
        raise InputError(f"{option} {path}: the file is written as {kind}; name it {path.with_suffix(suffix)}")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {path}: {path.parent} is not writable; choose another folder")


def require_new_file(path: Path, option: str, suffix: str = "", *, force: bool) -> None:
    """Check that a new file can be written.

    Args:
        path: The file to write.
        option: The option that names it, for the message.
        suffix: The suffix that its name needs, if any.
        force: Allow it to replace a file.

    Raises:
        InputError: As of `require_file_place`; or its folder does not exist, or it exists.
    """
    require_file_place(path, option, suffix)
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if path.exists() and not force:
        raise InputError(f"{option} {path} exists; choose another file, or overwrite it with --force")


def require_utf8(path: Path) -> None:
    """Raise InputError for a name that is not UTF-8: reports hold only text, and onnxruntime cannot open such a file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        fix = "rename it" if encoding == "utf-8" else f"file names are {encoding} in this locale: set PYTHONUTF8=1"
        raise InputError(f"{path} is not a name in UTF-8; {fix}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to: it replaces `path` when the block ends, and is removed when the block fails.

    It is flushed to the disk before it replaces `path`, so that a power cut leaves one of the two intact.

    Raises:
        StorageError: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")  # see UNFINISHED_FILES
    with writing(path):
        try:
            part.touch(exist_ok=False)
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)  # safetensors replaces it by a file that only its owner may read
            fsync_file(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def scratch_beside(part: Path) -> Iterator[Path]:
    """Give a folder beside a part of `replacing`, for a library that writes temporary files of its own; removed when the block ends."""
    folder = part.with_suffix(".0.part")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove files and folders left by processes that were killed while they wrote."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, "check its disk")
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; {fix}") from error


def append(path: Path, line: str) -> None:
    """Append a line to a log; StorageError where it cannot be written, or is a link, pipe or device."""
    with writing(path), open(os.open(path, _OWN_FILE | os.O_APPEND, 0o666), "a", encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        file.write(line + "\n")


def fsync_file(path: Path) -> None:
    """Flush a file to the disk, where it exists; StorageError where that fails."""
    if path.is_file():
        with writing(path), path.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all; StorageError where it cannot be written."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
