"""Tar shards in the layout of the webdataset library, as images that are read by index.

The library says which files a specification names, and which members of a tar are one sample. It does not read the images: its streams
come in the order of the shards, shuffled within a buffer, and cannot start in the middle. Instead the headers of each shard are read once,
and an index of its images is kept in the cache. Batches, splits and resuming then work as for every other data set.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import stat_result
from pathlib import Path, PurePosixPath
from typing import Any, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.frozen import Value
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.system.files import replacing, writing
from edcompress.core.system.machine import cache_home
from edcompress.data.braces import MOST_CHARACTERS, require_few_names
from edcompress.data.decoding import SUFFIXES, TarMember
from edcompress.data.image_folder import imagenet_wnids
from edcompress.data.images import StoredImages, read_settings
from edcompress.data.listing import Unread, count_kinds, is_hidden, suffix_kind, unread_note
from edcompress.data.opening import Warn, discard_warning

KINDS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)

LABELS = ("cls", "json")
"""Members that hold the class of a sample; the first one is taken."""

MOST_CLASSES = 1_000_000
"""A label of this or more is taken for a mistake: each class has a name in memory."""

_RESERVED = re.compile(r"__[^/]*__($|/)")
"""Members that the library reserves for itself."""

_NOT_A_FILE = "link, pipe or device"

_REMOTE = re.compile(r"\w\w+:")
"""The start of a URL, or of a pipe, which would run a command that the recipe gives."""


class ShardIndex(Value):
    """The images of a shard that had this size and modification time: names in the tar, `places` (offset, size) in bytes, labels.

    `unread` are its other members.
    """

    size: int
    changed_ns: int
    names: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    unread: tuple[Unread, ...]

    def is_of(self, status: stat_result) -> bool:
        """Return whether the shard has not changed since it was indexed."""
        return (self.size, self.changed_ns) == (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardImages(StoredImages):
    """Images in tars: `extents` int64 [N, 3] are the number of the shard, and offset and size in bytes within it."""

    shards: tuple[Path, ...]
    names: tuple[str, ...]
    extents: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""
        names = tuple(self.names[i] for i in indices.tolist())
        return replace(self, names=names, extents=self.extents[indices], labels=self.labels[indices])

    def source(self, index: int) -> TarMember:
        """Return the member of a shard that holds the image at `index`."""
        shard, offset, size = self.extents[index].tolist()
        return TarMember(self.shards[shard], self.names[index], offset, size)


def open_shards(
    root: Path, data: Data, warn: Warn = discard_warning
) -> tuple[ShardImages, ShardImages, tuple[str, ...]]:
    """Open the shards that a recipe names.

    Args:
        root: The folder of all data sets, to which the specifications are relative.
        data: The recipe's data section.
        warn: Takes a message about members of the shards that are not read.

    Returns:
        Training images, test images, and the names of the classes in index order.

    Raises:
        DataError: Shards are missing, damaged, or not laid out as they must be.
    """
    keys = ("data.train_shards", "data.test_shards")
    train, test = (_shards(root, key, getattr(data, key.removeprefix("data."))) for key in keys)
    if twice := [
        str(shard) for shard, times in Counter(shard.resolve() for shard in train + test).items() if times > 1
    ]:
        raise DataError(
            f"data.train_shards, data.test_shards: {few(twice)} named twice; name each shard in one of them"
        )
    indices = [[_index(shard) for shard in shards] for shards in (train, test)]
    for key, found in zip(keys, indices, strict=True):
        if note := unread_note(key, (kind for index in found for kind in index.unread)):
            warn(note)
    sets = _images(train, indices[0], data), _images(test, indices[1], data)
    highest = max(int(images.labels.max()) for images in sets)
    names = imagenet_wnids() if data.class_index == "imagenet" else tuple(map(str, range(highest + 1)))
    if highest >= len(names):
        raise DataError(
            f"data.class_index: imagenet has {len(names)} classes, but the shards have labels up to {highest}"
        )
    return *sets, names


def _shards(root: Path, key: str, specification: str) -> list[Path]:
    names = _expanded(key, specification)
    if remote := [name for name in names if _REMOTE.match(name)]:
        raise DataError(
            f"{key}: {remote[0]} is not a local file; fetch the shards, and give their paths under data.root"
        )
    shards = [root / name for name in names]
    if missing := [str(shard) for shard in shards if not shard.is_file()]:
        raise DataError(
            f"{key}: {len(missing)} of {len(shards)} shards are missing: {few(missing)}; set data.root or EDCOMPRESS_DATA to the "
            "folder in which they are"
        )
    return shards


def _expanded(key: str, specification: str) -> list[str]:
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise DataError(
            "data.dataset: webdataset needs the package webdataset, which is not installed: pip install 'edcompress[webdataset]'"
        ) from error
    try:
        require_few_names(specification.split("::"))
        names: list[str] = expand_urls(specification)
    except (ValueError, AssertionError) as error:  # too many names, wrong braces, a variable that is not set
        raise DataError(f"{key}: {specification[:MOST_CHARACTERS]}: {error}") from error
    return names


def _images(shards: Sequence[Path], indices: Sequence[ShardIndex], data: Data) -> ShardImages:
    names = tuple(name for index in indices for name in index.names)
    if not names:
        raise DataError(f"{few([str(shard) for shard in shards])}: no images in these shards")
    extents = [(number, *extent) for number, index in enumerate(indices) for extent in index.places]
    labels = [label for index in indices for label in index.labels]
    return ShardImages(
        torch.tensor(labels), *read_settings(data), shards=tuple(shards), names=names, extents=torch.tensor(extents)
    )


def _index(shard: Path) -> ShardIndex:
    """Return the index of a shard, from the cache where the shard has not changed."""
    status, name = shard.stat(), hashlib.sha256(str(shard.resolve()).encode()).hexdigest()[:32]
    path = cache_home() / "shards" / f"{name}.json"
    known = _cached(path)
    if known and known.is_of(status):
        return known
    unread: list[Unread] = []
    found = [_entry(sample, unread) for sample in _samples(shard, unread)]
    index = ShardIndex(
        size=status.st_size,
        changed_ns=status.st_mtime_ns,
        names=tuple(image.name for image, _ in found),
        places=tuple((image.offset, image.size) for image, _ in found),
        labels=tuple(label for _, label in found),
        unread=count_kinds(unread),
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(index.model_dump_json(), encoding="utf-8")
    return index


def _cached(path: Path) -> ShardIndex | None:
    """Return the index in a file; None where it is missing or damaged, since it can be made again."""
    if not path.is_file():
        return None
    try:
        return ShardIndex.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _samples(shard: Path, unread: list[Unread]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard as the library groups its members: each by its extension, their common name as `__key__`.

    Members that belong to no sample go to `unread`.
    """
    from webdataset.tariterators import group_by_keys

    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from group_by_keys(_members(shard, tar, unread))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(
                tarfile.BLOCKSIZE
            ):  # tarfile takes a damaged header for the end of the archive
                raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = error.args[0] if isinstance(error, ValueError) else error  # the library adds two None
        raise DataError(
            f"{shard}: is cut off or damaged, or not an uncompressed tar ({reason}); fetch it again, or unpack it to a plain .tar"
        ) from error


def _members(shard: Path, tar: tarfile.TarFile, unread: list[Unread]) -> Iterator[dict[str, Any]]:
    """Yield the files in a tar as the library's functions take them, with a TarMember in place of their content."""
    for info in tar:
        parts = PurePosixPath(info.name).parts
        if info.isdir() or _RESERVED.match(info.name) or any(part != ".." and is_hidden(part) for part in parts):
            continue
        member = TarMember(shard, info.name, info.offset_data, info.size)
        if not info.isreg():
            unread.append((_NOT_A_FILE, 1, str(member)))
        elif "." not in parts[-1]:  # which the library assigns to no sample
            unread.append((suffix_kind(info.name), 1, str(member)))
        else:
            yield {"fname": info.name, "data": member, "__url__": str(shard)}


def _entry(sample: Mapping[str, Any], unread: list[Unread]) -> tuple[TarMember, int]:
    """Return the image of a sample, and its label; its other members go to `unread`."""
    images = [sample[kind] for kind in KINDS if kind in sample]
    label = next((sample[kind] for kind in LABELS if kind in sample), None)
    members = {kind: member for kind, member in sample.items() if not kind.startswith("__")}
    if len(images) != 1 or label is None:
        raise DataError(
            f"{sample['__url__']}: sample {sample['__key__']} has {', '.join(members)}; a sample is one image ({', '.join(KINDS)}) and "
            "its class (cls or json)"
        )
    unread += [(f".{kind}", 1, str(member)) for kind, member in members.items() if kind not in (*KINDS, *LABELS)]
    return images[0], _label(label)


def _label(member: TarMember) -> int:
    content = member.content()
    try:
        value = int(content) if member.name.lower().endswith(".cls") else _in_json(content)
    except (ValueError, RecursionError):
        value = None
    if type(value) is int and 0 <= value < MOST_CLASSES:
        return value
    raise DataError(
        f"{member}: is not a class: write a number from 0 to {MOST_CLASSES - 1}, in json by itself or as `label` (got {content[:40]!r})"
    )


def _in_json(content: bytes) -> Any:
    value = json.loads(content)
    return value.get("label") if isinstance(value, dict) else value
