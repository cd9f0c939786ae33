"""The run folder: its files by name, written atomically; none of them is a pickle."""

from __future__ import annotations

import errno
import os
import reprlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from edcompress import recipebook
from edcompress.errors import RunFolderError
from edcompress.files import UNFINISHED_FILES, remove_unfinished, replacing, require_utf8, special_kind
from edcompress.recipe import Recipe
from edcompress.results import Report
from edcompress.sources import IN_FILES

T = TypeVar("T")
FILES = ("recipe.yaml", "space.json", "search.jsonl", "epochs.jsonl", "latency.json", "plan.json",
         "dense.safetensors", "pruned.safetensors", "load_pruned.py", "dense.onnx", "pruned.onnx",
         "pruned.fp16.onnx", "pruned.int8.onnx", "pruned.pixels.onnx", "pruned.pt2", "pruned.torchscript.pt", "model_card.md",
         "report.json", "report.html", "progress.json", "log.jsonl")  # fmt: skip
_SNAPSHOT = "snapshot-{}.safetensors"
UNFINISHED_EXPORTS = ".export-"
"""How folders begin in which an export writes its files before they take their places."""
MOST_BYTES = 100_000_000
"""Of a file of text in a run folder; space.json of a network of a thousand layers has 7 000 000."""

LOCK_SECONDS = 6.0
"""How long to wait for another process to leave a folder: the data workers of one that was killed live on for 5 s."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        """The path of one of the run's files."""
        assert name in FILES, name
        return self.path / name

    @property
    def state(self) -> Path:
        """The folder of what only an unfinished run needs."""
        return self.path / "state"

    @property
    def snapshots(self) -> list[Path]:
        """What a resumed run goes on from, newest first: the newest that is whole."""
        found = self.state.glob(_SNAPSHOT.format("*"))
        return sorted((path for path in found if path.stem.rpartition("-")[2].isdecimal()), reverse=True)

    def next_snapshot(self) -> Path:
        """Where to save the next one."""
        last = self.snapshots[0].stem.rpartition("-")[2] if self.snapshots else "0"
        return self.state / _SNAPSHOT.format(f"{int(last) + 1:09}")

    @property
    def start(self) -> Path:
        """What a run that prunes another one further started from."""
        return self.state / "start.safetensors"

    @property
    def step(self) -> Path:
        """The step of widths that an unfinished run goes by."""
        return self.state / "round_to.json"

    @property
    def trials(self) -> Path:
        """The runs among which a target in accuracy chose."""
        return self.path / "trials"

    @property
    def tensorboard(self) -> Path:
        """The event files of `--log tensorboard`."""
        return self.path / "tensorboard"

    @property
    def _parts(self) -> tuple[Path, ...]:
        return self.state, self.trials, self.tensorboard

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @property
    def resumable(self) -> bool:
        """Whether anything is saved that a resumed run goes on from."""
        return (
            bool(self.snapshots)
            or any(self.trials.glob("*/report.json"))
            or any(RunFolder(trial).snapshots for trial in self.trials.glob("*"))
        )

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self / "recipe.yaml").is_file()

    @property
    def began(self) -> int | None:
        """When a run was begun or gone on with here last, in nanoseconds; None where none was."""
        return (self / "recipe.yaml").stat().st_mtime_ns if self.exists else None

    @property
    def finished(self) -> bool:
        """Whether pruning came to its end here."""
        return (self / "report.json").is_file() and (self / "pruned.safetensors").is_file()

    @property
    def writable(self) -> bool:
        """Whether this process may write in it."""
        return os.access(self.path, os.W_OK)

    def require_absent(self, *, force: bool) -> None:
        """Raise RunFolderError when something is in the way; with `force` the files of an earlier run are not.

        Raise InputError for a name that is not UTF-8.
        """
        require_utf8(self.path)
        if self.path.exists() and not force:
            raise RunFolderError(
                f"{self.path} exists; go on with --resume, start over with --force, or choose another with -o"
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose another run folder with -o")
        theirs = [f"{part.name}/" for part in self._parts if part.exists()]
        theirs += [name for name in FILES if (self / name).exists()]
        # Test tools and others write a report.json too.
        if theirs and not self._lock.exists() and not (self / "progress.json").exists():
            raise RunFolderError(
                f"{self.path} holds {theirs[0]} and no run, which --force would remove; choose another with -o"
            )

    def create(self, *, force: bool) -> None:
        """Make the folder; with `force` it may be there."""
        self.require_absent(force=force)
        with self._usable():
            self.path.mkdir(parents=True, exist_ok=force)

    def clear(self) -> None:
        """Remove the files of an earlier run, and only those."""
        with self._usable():
            for file in FILES:
                (self.path / file).unlink(missing_ok=True)
            for part in self._parts:
                if part.is_dir():
                    shutil.rmtree(part)
            self.state.mkdir()

    def clear_state(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.state, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which no other process may write here; RunFolderError where one does already.

        What a process that was killed had not finished writing, or had not removed any more, is removed.
        """
        with self._usable():
            self._require_own_files()
            lock = _acquired(self._lock, f"{self.path} is in use by another process; {_WAIT} another folder with -o")
        try:
            with self._usable():
                self._remove_unfinished()
            yield
        finally:
            lock.release()

    def _require_own_files(self) -> None:
        """Raise RunFolderError for a link, pipe or device among the run's files: it would be written where it leads, or waited for.

        The folder itself may be a link.
        """
        entries = [self.path / name for name in FILES] + [
            self._lock,
            *self._parts,
            *self.path.glob(UNFINISHED_EXPORTS + "*"),
        ]
        entries += [path for part in self._parts if special_kind(part) is None for path in part.glob("*")]
        for path in entries:
            if kind := special_kind(path):
                raise RunFolderError(
                    f"{path} is a {kind}, and a run writes only to files of its own; delete it, or put the file itself in its place"
                )
        for trial in self.trials.glob("*"):
            RunFolder(trial)._require_own_files()

    def _remove_unfinished(self) -> None:
        remove_unfinished(self.path.glob(UNFINISHED_EXPORTS + "*"))
        remove_unfinished(self.path.glob(f"**/{UNFINISHED_FILES}"))  # after the folders above, in which some are
        if self.finished:
            self.clear_state()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be used as run folder: {error.strerror} ({error.filename})"
            ) from error

    def require_begun(self) -> None:
        """Raise RunFolderError unless a run was begun here."""
        if not self.path.is_dir():
            raise RunFolderError(f"no run folder {self.path}; {_known_runs(self.path.parent)}")
        if not self.exists:
            raise RunFolderError(f"{self.path} is not a run folder (it has no recipe.yaml)")

    def require_whole(self) -> None:
        """Raise RunFolderError where a run that was finished has lost its network: nothing is left that it could go on from."""
        if (self / "report.json").is_file() and not self.finished:
            raise RunFolderError(f"{self / 'pruned.safetensors'} is missing; prune again with --force")

    def require_finished(self, need: str) -> None:
        """Raise RunFolderError unless pruning came to its end here; `need` says what for."""
        self.require_begun()
        self.require_whole()
        if not self.finished:
            raise RunFolderError(
                f"{self.path} has not finished pruning, which {need} needs; go on with: "
                f"edcompress prune CHECKPOINT --recipe {quote(str(self / 'recipe.yaml'))} -o {quote(str(self.path))} --resume"
            )

    def read_recipe(self) -> Recipe:
        """The resolved recipe of the run; where an earlier version wrote it, image files are read as that one read them."""
        return recipebook.read_recipe(str(self / "recipe.yaml"), unsaid=_exif_unsaid)

    def read_report(self) -> Report:
        """The report of the run."""
        return read_report(self / "report.json")


def _exif_unsaid(tree: dict[str, Any]) -> dict[str, Any]:
    """What a recipe without data.exif_orientation means: image files were read as stored before there was the key."""
    data = tree.get("data")
    in_files = isinstance(data, dict) and data.get("dataset") in IN_FILES
    return {"data": {"exif_orientation": "ignore"}} if in_files else {}


_WAIT = "wait for it, stop it, or choose"


def _acquired(path: Path, busy: str) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RunFolderError(busy) from None
    return lock


@contextmanager
def sole_writer(output: Path, *more: Path) -> Iterator[None]:
    """A block in which no other process of ours writes `output` and the files `more` beside it; RunFolderError where one does already.

    Their folder is made. What a process that was killed had not finished writing is removed. Nothing else is left where the block fails.
    """
    made = not output.parent.exists()
    path = output.parent / f".{output.name}.lock"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"-o {output}: {output.parent} cannot be made a folder: {error.strerror}") from error
    try:
        lock = _acquired(path, f"-o {output} is being written by another process; {_WAIT} another file with -o")
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


def read_report(path: Path) -> Report:
    """The report in a report.json; RunFolderError where it is none."""
    try:
        report = Report.model_validate_json(_text(path))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",):
            raise RunFolderError(
                f"{path} has schema_version {reprlib.repr(first['input'])}, this edcompress reads another; use the version that wrote it"
            ) from error
        raise RunFolderError(f"{path} is not a report of edcompress: {_first_fault(error)}; {_WHOLE_REPORT}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not a report of edcompress: it is not UTF-8 text") from error
    if "schema_version" not in report.model_fields_set:
        raise RunFolderError(f"{path} is not a report of edcompress: it has no schema_version; {_WHOLE_REPORT}")
    return report


_WHOLE_REPORT = "take report.json as edcompress wrote it"


def parsed(path: Path, parse: Callable[[str], T], way_out: str = "prune again with --force") -> T:
    """What `parse` makes of the text of a run's file; RunFolderError, with the way out, where the file is missing or damaged."""
    try:
        return parse(_text(path))
    except (OSError, ValueError) as error:
        fault = _first_fault(error) if isinstance(error, ValidationError) else error
        raise RunFolderError(f"{path} is missing or damaged ({fault}); {way_out}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    fault = first["msg"].removeprefix("Value error, ")
    return f"{key}: {fault}" if key else fault


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))  # opening a pipe would wait for its other end
    if path.exists() and (size := path.stat().st_size) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {size} bytes, and none of a run has more than {MOST_BYTES}", str(path))
    return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark


def newest(root: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """The run begun last under `root`, of those that `fresh` called by a recipe's `name` where one is given; else RunFolderError."""
    patterns = ["*/"] if name is None else [f"{escape(name)}/", f"{escape(name)}-[0-9]*/"]
    found = [RunFolder(path) for pattern in patterns for path in root.glob(pattern)]
    # A recipe called NAME-2 has its first run in a folder that is called like the second of NAME.
    last = begun_last(run for run in found if name is None or (run.exists and run.read_recipe().name == name))
    if last is None:
        raise RunFolderError(
            f"no run {f'of {name} ' if name else ''}under {root}/; name one, or make one with: edcompress prune CHECKPOINT --recipe RECIPE"
        )
    return last


def begun_last(folders: Iterable[RunFolder]) -> RunFolder | None:
    """That of the folders in which a run was begun last; None where none was."""
    return max((folder for folder in folders if folder.exists), key=lambda folder: folder.began or 0, default=None)


def fresh(name: str, root: Path = Path("runs")) -> RunFolder:
    """A run folder that does not exist yet: runs/NAME, or runs/NAME-2 and so on."""
    names = [name] + [f"{name}-{n}" for n in range(2, 10_000)]
    return RunFolder(next(path for name in names if not (path := root / name).exists()))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; StorageError where it cannot be written."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def _known_runs(root: Path) -> str:
    names: list[Any] = sorted(path.parent.name for path in root.glob("*/recipe.yaml"))
    return f"{root} has {', '.join(names)}" if names else f"there is no run in {root}"
