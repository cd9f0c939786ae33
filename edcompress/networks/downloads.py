"""Download one file over HTTPS: checked, and there completely or not at all."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch

from edcompress.core.errors import WeightsError, first_line
from edcompress.core.results.report import WeightsSource
from edcompress.core.system.files import replacing, writing
from edcompress.core.system.monitor import Monitor
from edcompress.networks.named_weights import FetchedWeights, announce, describe, record_of, size_text

PATIENCE_SECONDS = 30
"""How long a server may be silent."""

CHUNK = 2**20
"""Bytes per step of the progress."""

_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""The first digits of the SHA-256 in a file name, as torch.hub reads them."""

_HEADERS = {"User-Agent": "edcompress"}


@dataclass(frozen=True)
class RemoteFile:
    """A file of weights on a server.

    Attributes:
        name: The name of the weights, for messages.
        url: Where it is.
        place: Where it lies on this machine once it is downloaded.
        sha256: The SHA-256 of the file in hex digits, or the first of them.
        bytes: Its size, where the source knows it.
        license: Its licence, where the source states one.
    """

    name: str
    url: str
    place: Path
    sha256: str
    bytes: int | None = None
    license: str | None = None

    @property
    def address(self) -> str:
        """The URL without user, password and query, which may be secret."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @property
    def subject(self) -> str:
        """The start of a message: the name of the weights, unless the address says the same."""
        return self.address if self.name == self.address else f"{self.name}: {self.address}"

    @property
    def about(self) -> str:
        """The file, its size and licence, for people."""
        return describe(self.name, self.place.name, self.bytes, self.license)


def fetch_file(file: RemoteFile, monitor: Monitor) -> FetchedWeights:
    """Return the file on this machine, downloaded if it is not there.

    Raises:
        WeightsError: It cannot be had, or is not the file that the checksum is of.
        StorageError: It cannot be written.
    """
    require_secure(file.name, file.url)
    cached = file.place.exists()
    announce(monitor, file.about, file.address, file.place, cached=cached)
    if not cached:
        with writing(file.place):
            file.place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file.place) as part:
            _download(file, part, monitor)
    record = record_of(file.place)
    if not record.sha256.startswith(file.sha256):
        raise WeightsError(
            f"{file.name}: {file.place} is damaged or a different file: its SHA-256 is {record.sha256}, not {file.sha256}; delete it "
            "to download it again"
        )
    records = {safe_name(file.place.name): record}
    return FetchedWeights(
        file.place, WeightsSource(name=file.name, address=file.address, license=file.license, files=records)
    )


def require_secure(name: str, url: str) -> None:
    """Raise WeightsError for a URL that is not https; plain http is allowed to this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise WeightsError(f"{name}: {parts.scheme}://{parts.hostname} is not encrypted; give an https URL")


def offline_advice(file: RemoteFile) -> str:
    """Return what would have been fetched, from where, and where to put it by hand."""
    return (
        f"it is {file.place.name} ({size_text(file.bytes)}) at {file.address}; without a connection, download it elsewhere and put it at "
        f"{file.place}"
    )


def safe_name(name: str) -> str:
    """Return a file's name with letters that a report's file names may not have replaced."""
    kept = "".join(c if c.isalnum() or c in "_.-" else "_" for c in name)
    return kept if kept[:1].isalnum() else f"_{kept}"


def file_of(url: str) -> str:
    """Return the name of the file at a URL."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def hub_file(name: str, url: str, size: int | None, license_name: str | None) -> RemoteFile:
    """Return a file for the folder of torch.hub, whose name has the first digits of its SHA-256; WeightsError if it has none."""
    digest = _DIGEST.search(file_of(url))
    if not digest:
        raise WeightsError(
            f"{name}: no checksum of {url} is known; download it, and give the file in place of the name"
        )
    place = Path(torch.hub.get_dir()) / "checkpoints" / file_of(url)
    return RemoteFile(name, url, place, digest[1], size, license_name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _download(file: RemoteFile, part: Path, monitor: Monitor) -> None:
    """Write the file to `part`; raise WeightsError if not all of it arrives, or it is a different one."""
    digest = hashlib.sha256()
    with part.open("wb") as out:
        for chunk in _chunks(file, monitor):
            digest.update(chunk)
            out.write(chunk)
    if not digest.hexdigest().startswith(file.sha256):
        raise WeightsError(
            f"{file.subject} has the SHA-256 {digest.hexdigest()}, not {file.sha256}: it was replaced or damaged; "
            "nothing of it was kept. Use it only if its publisher confirms the new checksum"
        )


def _chunks(file: RemoteFile, monitor: Monitor) -> Iterator[bytes]:
    """Yield the bytes of the file as they arrive; raise WeightsError if the server does not answer, or stops halfway."""
    done = 0
    with _network_errors(file), urlopen(Request(file.url, headers=_HEADERS), timeout=PATIENCE_SECONDS) as answer:
        require_secure(file.name, answer.url)  # of the last redirect
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else file.bytes
        monitor.epoch("download", 0, 1)
        while chunk := answer.read(CHUNK):
            done += len(chunk)
            yield chunk
            monitor.step(-(-done // CHUNK), -(-(total or done) // CHUNK), {})
        if length.isdecimal() and done < int(length):
            raise http.client.IncompleteRead(b"", int(length) - done)


@contextmanager
def _network_errors(file: RemoteFile) -> Iterator[None]:
    """Turn the errors of a block that downloads a file into a WeightsError that says what to do."""
    try:
        yield
    except HTTPError as error:
        raise WeightsError(
            f"{file.subject} answers {error.code} {error.reason}; check the address"
            + (", or try again later" if error.code >= 500 else "")
        ) from error
    except http.client.IncompleteRead as error:
        raise WeightsError(
            f"{file.subject}: only a part of the file arrived ({error}); nothing of it was kept, try again"
        ) from error
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{file.subject} cannot be reached ({first_line(reason) if isinstance(reason, Exception) else reason}); "
            f"{offline_advice(file)}"
        ) from error
