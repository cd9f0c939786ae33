"""The image files below a class folder, in torchvision's order, and the other files there, which are not read."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.data.decoding import SUFFIXES

SPECIAL = "pipe, socket or device"

Unread = tuple[str, int, str]
"""A kind of file that is not read, how many there are, and the first of them."""

_Entries = dict[str, list["os.DirEntry[str]"]]
"""The files of directories, by the path of each."""


class ClassFiles(NamedTuple):
    """Paths of a class's images, the other files among them, and those images that really lie outside the class folder."""

    images: list[str]
    unread: tuple[Unread, ...]
    elsewhere: list[str]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left behind by a system, as `.ipynb_checkpoints`, `._a.png` and a Mac's `__MACOSX` are."""
    return name.startswith(".") or name == "__MACOSX"


def class_files(folder: str) -> ClassFiles:
    """List the files below a class folder, following links and visiting each real directory once.

    Raises:
        DataError: A directory cannot be listed.
    """
    home = os.path.join(os.path.realpath(os.path.dirname(folder)), os.path.basename(folder))
    real = cache(os.path.realpath)
    images, unread, elsewhere = [], [], []
    for directory, entries in sorted(_directories(folder, home).items()):
        away = not _within(real(directory), home)
        for entry in entries:
            if kind := _unread_kind(entry):
                unread.append((kind, 1, entry.path))
                continue
            images.append(entry.path)
            if away or (entry.is_symlink() and _leaves(entry.path, home, real)):
                elsewhere.append(entry.path)
    return ClassFiles(images, count_kinds(unread), elsewhere)


def count_kinds(found: Iterable[Unread]) -> tuple[Unread, ...]:
    """Merge the entries of each kind into one, the most frequent kind first."""
    numbers: Counter[str] = Counter()
    first: dict[str, str] = {}
    for kind, number, name in found:
        numbers[kind] += number
        first.setdefault(kind, name)
    return tuple((kind, number, first[kind]) for kind, number in numbers.most_common())


def unread_note(where: str, found: Iterable[Unread]) -> str | None:
    """Return a line on what is not read, by kind, with the first of each; None where everything is read."""
    kinds = count_kinds(found)
    if not kinds:
        return None
    shown = few([f"{number} {kind} (first: {name})" for kind, number, name in kinds])
    total = sum(number for _, number, _ in kinds)
    return f"{where}: {total} {'file is' if total == 1 else 'files are'} not read: {shown}; images are {', '.join(SUFFIXES)}"


def suffix_kind(name: str) -> str:
    """Return the kind of a file by its name, such as ".txt"."""
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _directories(top: str, home: str) -> _Entries:
    """List the files of every directory below `top`: behind links last, and not behind links to a directory that holds `top` or `home`."""
    found: _Entries = {}
    visited, tops = set(), (os.path.realpath(top), home)
    own, linked = deque([top]), deque[str]()
    while own or linked:
        directory = (own or linked).popleft()
        status = os.stat(directory)
        if (identity := (status.st_dev, status.st_ino)) in visited:
            continue
        visited.add(identity)
        found[directory] = []
        for entry in _listed(directory):
            if not _is_dir(entry):
                found[directory].append(entry)
            elif not entry.is_symlink():
                own.append(entry.path)
            elif not any(_within(inner, os.path.realpath(entry.path)) for inner in tops):
                linked.append(entry.path)
    return found


def _listed(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a directory that are not hidden, in the order of their names."""
    try:
        with os.scandir(directory) as entries:
            yield from sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"data.folder: {directory} cannot be listed: {error.strerror}; grant read permission, or remove it"
        ) from error


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _leaves(link: str, home: str, real: Callable[[str], str]) -> bool:
    """Return whether a link leads out of `home`, itself or through others on its way; `real` is a cached os.path.realpath."""
    target = os.path.join(os.path.dirname(link), os.readlink(link))
    return not _within(real(os.path.dirname(target)), home) or not _within(os.path.realpath(link), home)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file, or a link to nothing, which counts as a broken file."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link to itself
        return True


def _unread_kind(entry: os.DirEntry[str]) -> str | None:
    """Return the kind of a file that is not read; None for an image."""
    if not _is_file(entry):
        return SPECIAL
    kind = suffix_kind(entry.name)
    return None if kind in SUFFIXES else kind
