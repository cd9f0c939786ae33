"""The image files below a class folder, in torchvision's order, and what lies among them and is not read."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.data.images import SUFFIXES

SPECIAL = "pipe, socket or device"

Unread = tuple[str, int, str]
"""A kind of file that is not read, how many of it there are, and the first."""

_Entries = dict[str, list["os.DirEntry[str]"]]
"""The files of directories, by the path of each."""


class ClassFiles(NamedTuple):
    """Paths of a class's images, what else lies among them, and those images whose real place is outside of the class folder."""

    images: list[str]
    unread: tuple[Unread, ...]
    elsewhere: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is what systems leave behind: `.ipynb_checkpoints`, `._a.png` and `__MACOSX` of a Mac's archives."""
    return name.startswith(".") or name == "__MACOSX"


def class_files(folder: str) -> ClassFiles:
    """The files below a class folder; links are followed, each real directory is visited once. DataError where one cannot be listed."""
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
    return ClassFiles(images, counted(unread), elsewhere)


def counted(found: Iterable[Unread]) -> tuple[Unread, ...]:
    """One entry per kind, the most frequent first."""
    numbers: Counter[str] = Counter()
    first: dict[str, str] = {}
    for kind, number, name in found:
        numbers[kind] += number
        first.setdefault(kind, name)
    return tuple((kind, number, first[kind]) for kind, number in numbers.most_common())


def unread_note(where: str, found: Iterable[Unread]) -> str | None:
    """One line on what is not read, by kind, with the first of each; None of nothing."""
    kinds = counted(found)
    if not kinds:
        return None
    told = few([f"{number} {kind} (first: {name})" for kind, number, name in kinds])
    total = sum(number for _, number, _ in kinds)
    return f"{where}: {total} {'file is' if total == 1 else 'files are'} not read: {told}; images are {', '.join(SUFFIXES)}"


def suffix_kind(name: str) -> str:
    """What a file that is not read is called by its name."""
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _directories(top: str, home: str) -> _Entries:
    """The files of every directory below `top`; what links lead to comes last, and a link to what holds `top` or `home` nowhere."""
    found: _Entries = {}
    seen, above = set(), (os.path.realpath(top), home)
    own, linked = deque([top]), deque[str]()
    while own or linked:
        directory = (own or linked).popleft()
        status = os.stat(directory)
        if (place := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(place)
        found[directory] = []
        for entry in _listed(directory):
            if not _is_dir(entry):
                found[directory].append(entry)
            elif not entry.is_symlink():
                own.append(entry.path)
            elif not any(_within(inner, os.path.realpath(entry.path)) for inner in above):
                linked.append(entry.path)
    return found


def _listed(directory: str) -> Iterator[os.DirEntry[str]]:
    """What lies in a directory, hidden entries left out, in the order of the names."""
    try:
        with os.scandir(directory) as entries:
            yield from sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"data.folder: {directory} cannot be listed: {error.strerror}; give the permission to read it, or remove it"
        ) from error


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _leaves(link: str, home: str, real: Callable[[str], str]) -> bool:
    """Whether a link leads out of `home`, by itself or by others on its way; `real` is os.path.realpath, and remembers."""
    target = os.path.join(os.path.dirname(link), os.readlink(link))
    return not _within(real(os.path.dirname(target)), home) or not _within(os.path.realpath(link), home)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to nothing: that is a broken file."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link to itself
        return True


def _unread_kind(entry: os.DirEntry[str]) -> str | None:
    """Why a file is not read; None of an image."""
    if not _is_file(entry):
        return SPECIAL
    kind = suffix_kind(entry.name)
    return None if kind in SUFFIXES else kind
