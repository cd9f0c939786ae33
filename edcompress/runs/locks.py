"""Locks that keep two processes from writing the same folder or file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

from edcompress.core.errors import RunFolderError
from edcompress.core.system.files import UNFINISHED_FILES, remove_unfinished

LOCK_SECONDS = 6.0
"""How long to wait for another process to release a lock: the data workers of a killed process live for another 5 s."""

WAIT = "wait for it, stop it, or choose"
"""What to do about a lock that another process has; the sentence goes on with what to choose."""


def acquire_lock(path: Path, busy: str) -> FileLock:
    """Lock a file and return the lock.

    Args:
        path: The file, which is created.
        busy: The message if another process has locked it.

    Raises:
        RunFolderError: Another process has not released it for LOCK_SECONDS.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RunFolderError(busy) from None
    return lock


@contextmanager
def sole_writer(output: Path, *more: Path) -> Iterator[None]:
    """Keep other processes of ours from writing files during a block, and remove what a killed process left unfinished.

    Their folder is created; a block that fails leaves nothing else behind.

    Args:
        output: The file to write.
        more: Further files beside it.

    Raises:
        RunFolderError: Another process writes it already, or its folder cannot be used.
    """
    made = not output.parent.exists()
    path = output.parent / f".{output.name}.lock"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"-o {output}: {output.parent} cannot be created as a folder: {error.strerror}") from error
    try:
        lock = acquire_lock(path, f"-o {output} is being written by another process; {WAIT} another file with -o")
    except OSError as error:
        raise RunFolderError(f"-o {output}: {path} cannot be opened: {error.strerror}") from error
    try:
        for file in (output, *more):
            remove_unfinished(output.parent.glob(f".{escape(file.name)}{UNFINISHED_FILES.removeprefix('.*')}"))
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held
        lock.release()
        if made and not any(output.parent.iterdir()):
            output.parent.rmdir()
