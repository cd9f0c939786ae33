"""What a source of weights finds under a name, and what is shown and recorded of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edcompress.core.recipe.weights_name import Offer
from edcompress.core.results.report import FileRecord, WeightsSource
from edcompress.core.system.monitor import Monitor


@dataclass(frozen=True)
class FetchedWeights:
    """The file of weights on this machine, checked, and where it came from."""

    path: Path
    source: WeightsSource


@dataclass(frozen=True)
class NamedWeights:
    """Weights that a name stands for.

    Attributes:
        name: The name, as reports show it.
        offer: The recipe keys that follow from them: network, number of classes, preprocessing.
        fetch: Downloads what the cache lacks, and checks the checksum; WeightsError where that fails.
    """

    name: str
    offer: Offer
    fetch: Callable[[Monitor], FetchedWeights]


def announce(monitor: Monitor, about: str, address: str, place: Path, *, cached: bool) -> None:
    """Show what `describe` says of a file, and before it is downloaded where it comes from and goes to."""
    monitor.stage(f"{about}; in {place}" if cached else f"{about}; fetching {address} to {place}")


def describe(name: str, file: str, size: int | None, license_name: str | None) -> str:
    """Return the name of weights, and their file, its size and licence, as text."""
    return f"weights {name}: {file}, {size_text(size)}, licence: {license_name or 'not stated by the source'}"


def size_text(size: int | None) -> str:
    """Return a size in bytes for people."""
    if size is None:
        return "size unknown"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"


def record_of(path: Path) -> FileRecord:
    """Return the SHA-256 and the size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)
