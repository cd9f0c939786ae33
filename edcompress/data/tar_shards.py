"""Tar shards in the layout of the webdataset library, as images that are read by index.

The library says which files a specification names, and which members of a tar are one sample. It does not read the images: its streams
come in the order of the shards, shuffled within a buffer, and cannot begin in the middle. Instead each shard is gone through once, header
by header, and what stands where is kept in the cache. Batches, splits and resuming are then those of every other data set.
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
from edcompress.core.recipe.data import Data, Orientation
from edcompress.core.system.files import replacing, writing
from edcompress.core.system.machine import cache_home
from edcompress.data.braces import MOST_CHARACTERS, require_few_names
from edcompress.data.image_folder import imagenet_wnids
from edcompress.data.images import SUFFIXES, StoredImages, TarMember, Warn, how_read, ignore_warnings
from edcompress.data.listing import Unread, counted, is_hidden, suffix_kind, unread_note

KINDS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)

LABELS = ("cls", "json")
"""Members that hold the class of a sample; the first one counts."""

MOST_CLASSES = 1_000_000
"""A label from here on is taken for a mistake: each class has a name in memory."""

_PASSED_OVER = re.compile(r"__[^/]*__($|/)")
"""Members that the library keeps for itself."""

_NO_FILE = "link, pipe or device"

_ELSEWHERE = re.compile(r"\w\w+:")
"""How a URL begins, or a pipe, which would run a command of the recipe's."""


class Listing(Value):
    """The images of a shard that had this size and time of change: their names in the tar, where they stand, and their labels.

    `unread` are its other members.
    """

    size: int
    changed_ns: int
    names: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    unread: tuple[Unread, ...]

    def is_of(self, status: stat_result) -> bool:
        """Whether it is that of the shard as it is now."""
        return (self.size, self.changed_ns) == (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class ShardImages(StoredImages):
    """Images in tars: `places` int64 [N, 3] are the number of the shard, and offset and size in bytes within it."""

    shards: tuple[Path, ...]
    names: tuple[str, ...]
    places: Tensor
    labels: Tensor
    channels: int
    skip_broken: bool = False
    orientation: Orientation = "apply"
    warn: Warn = ignore_warnings

    def __len__(self) -> int:
        return len(self.names)

    def with_warn(self, warn: Warn) -> Self:
        """The same images with another `warn`."""
        return replace(self, warn=warn)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order."""
        names = tuple(self.names[i] for i in indices.tolist())
        return replace(self, names=names, places=self.places[indices], labels=self.labels[indices])

    def place(self, index: int) -> TarMember:
        """The member of a shard."""
        shard, offset, size = self.places[index].tolist()
        return TarMember(self.shards[shard], self.names[index], offset, size)


def open_shards(
    root: Path, data: Data, warn: Warn = ignore_warnings
) -> tuple[ShardImages, ShardImages, tuple[str, ...]]:
    """Training images, test images and class names in index order; DataError for shards that are missing or not as they must be.

    `warn` hears what the shards hold and is not read.
    """
    keys = ("data.train_shards", "data.test_shards")
    train, test = (_shards(root, key, getattr(data, key.removeprefix("data."))) for key in keys)
    if twice := [
        str(shard) for shard, times in Counter(shard.resolve() for shard in train + test).items() if times > 1
    ]:
        raise DataError(
            f"data.train_shards, data.test_shards: {few(twice)} named twice; name each shard in one of them"
        )
    listings = [[_listing(shard) for shard in shards] for shards in (train, test)]
    for key, found in zip(keys, listings, strict=True):
        if note := unread_note(key, (kind for listing in found for kind in listing.unread)):
            warn(note)
    sets = _images(train, listings[0], data), _images(test, listings[1], data)
    highest = max(int(images.labels.max()) for images in sets)
    names = imagenet_wnids() if data.class_index == "imagenet" else tuple(map(str, range(highest + 1)))
    if highest >= len(names):
        raise DataError(
            f"data.class_index: imagenet has {len(names)} classes, but the shards have labels up to {highest}"
        )
    return *sets, names


def _shards(root: Path, key: str, specification: str) -> list[Path]:
    names = _expanded(key, specification)
    if remote := [name for name in names if _ELSEWHERE.match(name)]:
        raise DataError(f"{key}: {remote[0]} is no local file; fetch the shards, and give their paths under data.root")
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
            "data.dataset: webdataset needs the package of that name, which is not installed: pip install 'edcompress[webdataset]'"
        ) from error
    try:
        require_few_names(specification.split("::"))
        names: list[str] = expand_urls(specification)
    except (ValueError, AssertionError) as error:  # too many names, wrong braces, a variable that is not set
        raise DataError(f"{key}: {specification[:MOST_CHARACTERS]}: {error}") from error
    return names


def _images(shards: Sequence[Path], listings: Sequence[Listing], data: Data) -> ShardImages:
    names = tuple(name for listing in listings for name in listing.names)
    if not names:
        raise DataError(f"{few([str(shard) for shard in shards])}: no images in these shards")
    places = [(number, *place) for number, listing in enumerate(listings) for place in listing.places]
    labels = [label for listing in listings for label in listing.labels]
    return ShardImages(tuple(shards), names, torch.tensor(places), torch.tensor(labels), *how_read(data))


def _listing(shard: Path) -> Listing:
    """That of the shard as it is, from the cache if it was made before."""
    status, name = shard.stat(), hashlib.sha256(str(shard.resolve()).encode()).hexdigest()[:32]
    path = cache_home() / "shards" / f"{name}.json"
    known = _kept(path)
    if known and known.is_of(status):
        return known
    unread: list[Unread] = []
    found = [_entry(sample, unread) for sample in _samples(shard, unread)]
    listing = Listing(
        size=status.st_size,
        changed_ns=status.st_mtime_ns,
        names=tuple(image.name for image, _ in found),
        places=tuple((image.offset, image.size) for image, _ in found),
        labels=tuple(label for _, label in found),
        unread=counted(unread),
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(listing.model_dump_json(), encoding="utf-8")
    return listing


def _kept(path: Path) -> Listing | None:
    """The listing in a file; None where there is none, or a damaged one, for it can be made anew."""
    if not path.is_file():
        return None
    try:
        return Listing.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _samples(shard: Path, unread: list[Unread]) -> Iterator[dict[str, Any]]:
    """The samples of a shard as the library groups its members: each by its extension, and what they have in common as `__key__`.

    Members that are in none go to `unread`.
    """
    from webdataset.tariterators import group_by_keys

    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from group_by_keys(_members(shard, tar, unread))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = error.args[0] if isinstance(error, ValueError) else error  # the library adds two None
        raise DataError(
            f"{shard}: is cut off or damaged, or no uncompressed tar ({reason}); fetch it again, or unpack it to a plain .tar"
        ) from error


def _members(shard: Path, tar: tarfile.TarFile, unread: list[Unread]) -> Iterator[dict[str, Any]]:
    """The files in a tar as the library's functions take them, with their place instead of their content."""
    for info in tar:
        parts = PurePosixPath(info.name).parts
        if info.isdir() or _PASSED_OVER.match(info.name) or any(part != ".." and is_hidden(part) for part in parts):
            continue
        member = TarMember(shard, info.name, info.offset_data, info.size)
        if not info.isreg():
            unread.append((_NO_FILE, 1, str(member)))
        elif "." not in parts[-1]:  # for the library, of no sample
            unread.append((suffix_kind(info.name), 1, str(member)))
        else:
            yield {"fname": info.name, "data": member, "__url__": str(shard)}


def _entry(sample: Mapping[str, Any], unread: list[Unread]) -> tuple[TarMember, int]:
    """The image of a sample, and its label; its other members go to `unread`."""
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
        f"{member}: is no class: write a number from 0 to {MOST_CLASSES - 1}, in json as it is or as `label` (got {content[:40]!r})"
    )


def _in_json(content: bytes) -> Any:
    value = json.loads(content)
    return value.get("label") if isinstance(value, dict) else value
