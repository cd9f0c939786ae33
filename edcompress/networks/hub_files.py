"""Repositories of the Hugging Face Hub: what they hold, and their files in its cache."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from edcompress.core.errors import WeightsError, first_line
from edcompress.core.results.report import FileRecord, WeightsSource
from edcompress.core.system.files import writing
from edcompress.core.system.monitor import Monitor
from edcompress.networks.downloads import safe_name
from edcompress.networks.named_weights import FetchedWeights, announce, describe, record_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The names under which the libraries of the Hub save weights, whole or in shards."""

KNOWN = ("config.json", "preprocessor_config.json", "README.md", WEIGHTS, INDEX)
"""Files by which a snapshot is found in the cache."""

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of this machine's disks, not of the network."""

NOT_FOUND = 404

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its size, and the SHA-256 that the Hub has of large files."""

    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit: as the Hub describes it, or without a connection as the cache holds it (`offline` says why).

    Attributes:
        name: The name of the weights, for messages.
        repo: OWNER/NAME.
        revision: The branch, tag or commit that was asked for; None for the main branch.
        commit: The commit that it is now.
        files: The files by name.
        license: The licence in the model card.
        offline: Why the Hub did not answer; "" where it did.
    """

    name: str
    repo: str
    revision: str | None
    commit: str
    files: Mapping[str, HubFile] = field(default_factory=dict)
    license: str | None = None
    offline: str = ""

    @property
    def page(self) -> str:
        """The address of the repository."""
        return f"{_api(self.name).endpoint}/{self.repo}"

    def read_text(self, file: str) -> str:
        """Return the text of a small file; WeightsError where it cannot be had."""
        return self.path_of(file).read_text(encoding="utf-8")

    def path_of(self, file: str) -> Path:
        """Return the path of a file in the cache, downloaded if it is not there; WeightsError where it cannot be had."""
        api, local = _api(self.name), bool(self.offline)
        # The cache keeps the commit of a branch only if the branch is asked for.
        revision = self.commit if local else self.revision
        try:
            with _hub_errors(self.name, self.repo, self.revision), _without_bars():
                return Path(api.hf_hub_download(self.repo, file, revision=revision, local_files_only=local))
        except _UnreachableError as error:
            raise WeightsError(
                f"{self.name}: {file} of {self.page} did not arrive whole ({error}); nothing of it was kept, try again"
            ) from error

    def fetch(self, files: tuple[str, ...], monitor: Monitor) -> FetchedWeights:
        """Return the first of the files of weights, with the others beside it, each checked against the Hub's checksum."""
        records = {}
        for file in files:
            about = describe(self.name, file, self.files[file].bytes, self.license)
            cached = self._has(file)
            announce(monitor, about, self.page, cache_folder(self.repo), cached=cached)
            path = self.path_of(file)
            if (digest := self.files[file].sha256 or _blob_name(path)) is None:
                monitor.warning(f"{self.name}: no checksum of {path} is known, so that it is taken as it is")
            records[safe_name(Path(file).name)] = self._checked(file, path, digest, fresh=not cached)
        address = f"{self.page}/tree/{self.commit}"
        source = WeightsSource(name=self.name, address=address, license=self.license, files=records)
        return FetchedWeights(self.path_of(files[0]), source)

    def _has(self, file: str) -> bool:
        """Whether the cache has a file."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, file, revision=self.commit), str)

    def _checked(self, file: str, path: Path, expected: str | None, *, fresh: bool) -> FileRecord:
        """Return the record of a file; WeightsError, after which a file that was just downloaded is gone, if the checksum differs."""
        record = record_of(path)
        if expected in (None, record.sha256):
            return record
        fix = f"delete {path.resolve()} to download it again"
        if fresh:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            fix = "nothing of it was kept, try again"
        raise WeightsError(f"{self.name}: {file} has the SHA-256 {record.sha256}, and the Hub says {expected}; {fix}")


def read_repository(name: str, repo: str, revision: str | None = None) -> HubRepository:
    """Return a repository as the Hub describes it, or, where the Hub cannot be reached, as the cache holds it.

    Raises:
        WeightsError: There is no such repository or revision, or it is neither reachable nor in the cache.
    """
    if not REPOSITORY.fullmatch(repo):
        raise WeightsError(
            f"{name}: {repo!r} is not the name of a repository; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        )
    api = _api(name)
    try:
        with _hub_errors(name, repo, revision):
            return _described(
                name, repo, revision, api.model_info(repo, revision=revision, files_metadata=True, timeout=30)
            )
    except _UnreachableError as error:
        return _from_cache(name, repo, revision, str(error))


def cache_folder(repo: str) -> Path:
    """Return the folder of a repository in the cache of the Hub's library."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


class _UnreachableError(Exception):
    """The Hub does not answer; its text says why."""


def _described(name: str, repo: str, revision: str | None, info: ModelInfo) -> HubRepository:
    files = {one.rfilename: HubFile(one.size, one.lfs.sha256 if one.lfs else None) for one in info.siblings or ()}
    license_name = info.card_data.license if info.card_data else None
    return HubRepository(name, repo, revision, str(info.sha), files, _text(license_name))


def _from_cache(name: str, repo: str, revision: str | None, why: str) -> HubRepository:
    """Return what the cache holds of a repository; WeightsError, which says what to fetch from where, if that is no weights."""
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(repo, file, revision=revision or "main") for file in KNOWN)
    found = next((Path(path).parent for path in cached if isinstance(path, str)), None)
    files = {path.relative_to(found).as_posix(): path for path in found.rglob("*") if path.is_file()} if found else {}
    if found is None or not any(file.endswith(".safetensors") for file in files):
        raise WeightsError(
            f"{name}: {_api(name).endpoint} cannot be reached ({why}), and {cache_folder(repo)} has no weights; it is {WEIGHTS} and "
            f"config.json of {_api(name).endpoint}/{repo}; without a connection, run `hf download {repo} config.json {WEIGHTS}"
            f"{f' --revision {revision}' if revision else ''}` elsewhere, and copy that folder of its cache to {cache_folder(repo)}"
        )
    card = _card_license(files["README.md"]) if "README.md" in files else None
    described = {file: HubFile(path.stat().st_size, _blob_name(path)) for file, path in files.items()}
    return HubRepository(name, repo, revision, found.name, described, _text(card), why)


def _card_license(card: Path) -> object:
    """Return the licence in a model card; None where the card states none, or is not valid."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):
        return None


def _blob_name(path: Path) -> str | None:
    """Return the SHA-256 by which the cache names a large file; None for a small file, or one that was put there by hand."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name) else None


def _text(value: object) -> str | None:
    """Return a licence of a model card, which may be a list, as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if value else None


def _api(name: str) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise WeightsError(
            f"{name} needs huggingface_hub, which is not installed: pip install 'edcompress[hf]'"
        ) from error
    return HfApi(library_name="edcompress")


@contextmanager
def _hub_errors(name: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of a block that asks the Hub into WeightsError, or into _UnreachableError where it does not answer."""
    from huggingface_hub import errors

    http_error: type[Exception] = next(kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{name}: {repo} is gated: accept its conditions on its page, and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"{name}: there is no public repository {repo} of models; check its name, or log in with `hf auth login` if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"{name}: {repo} has no revision {revision!r}; give a branch, tag or commit of it"
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{name}: {first_line(error)}") from error
    except errors.HFValidationError as error:
        raise WeightsError(f"{name}: {first_line(error)}") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code == NOT_FOUND:  # of a mirror, which gives no reason
            raise WeightsError(f"{name}: {first_line(error)}; check the name of the repository") from error
        raise _UnreachableError(first_line(error)) from error
    except (http_error, OSError, json.JSONDecodeError) as error:
        if isinstance(error, OSError) and error.errno in _OF_DISKS:
            with writing(cache_folder(repo)):
                raise
        raise _UnreachableError(first_line(error)) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the library from drawing progress bars of its own during a block: they would mix with ours."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
