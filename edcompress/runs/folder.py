"""The run folder: its files by name, written atomically; none of them is a pickle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.loading import read_saved_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.files import UNFINISHED_FILES, remove_unfinished, require_utf8, special_kind
from edcompress.runs.locks import WAIT, acquire_lock
from edcompress.runs.reading import read_report

FILES = ("recipe.yaml", "space.json", "search.jsonl", "epochs.jsonl", "latency.json", "plan.json",
         "dense.safetensors", "pruned.safetensors", "dense.pt2", "images.safetensors",
         "load_pruned.py", "load_pruned.json", "dense.onnx", "pruned.onnx",
         "pruned.fp16.onnx", "pruned.int8.onnx", "pruned.pixels.onnx", "pruned.pt2", "pruned.torchscript.pt", "model_card.md",
         "report.json", "report.html", "progress.json", "log.jsonl")  # fmt: skip
_CHECKPOINT = "snapshot-{}.safetensors"
UNFINISHED_EXPORTS = ".export-"
"""Prefix of the folders in which an export writes its files before they are published."""


@dataclass(frozen=True, init=False)
class RunFolder:
    """One run on disk, in a folder with files of fixed names.

    `folder / "report.json"` is the path of one of them.

    Args:
        path: The folder; it need not exist yet.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        """Take the folder at `path`; nothing is read or written."""
        object.__setattr__(self, "path", Path(path))

    @classmethod
    def of(cls, run: RunOrPath) -> RunFolder:
        """Return the run folder at a path, or the one that is given."""
        return run if isinstance(run, RunFolder) else cls(run)

    def __truediv__(self, name: str) -> Path:
        """Return the path of one of the run's files."""
        if name not in FILES:
            raise KeyError(f"{name} is not a file of a run folder")
        return self.path / name

    @property
    def state(self) -> Path:
        """The folder of the files that only an unfinished run needs."""
        return self.path / "state"

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first; a resumed run continues from the newest that is intact."""
        found = self.state.glob(_CHECKPOINT.format("*"))
        return sorted((path for path in found if path.stem.rpartition("-")[2].isdecimal()), reverse=True)

    def next_checkpoint(self) -> Path:
        """Return the path of the next checkpoint."""
        last = self.checkpoints[0].stem.rpartition("-")[2] if self.checkpoints else "0"
        return self.state / _CHECKPOINT.format(f"{int(last) + 1:09}")

    @property
    def start(self) -> Path:
        """The network and plan from which a run started that prunes another run further."""
        return self.state / "start.safetensors"

    @property
    def step(self) -> Path:
        """The rounding of widths that an unfinished run has chosen."""
        return self.state / "round_to.json"

    @property
    def trials(self) -> Path:
        """The folder of the trial runs of a target in accuracy."""
        return self.path / "trials"

    @property
    def tensorboard(self) -> Path:
        """The folder of the event files of `--log tensorboard`."""
        return self.path / "tensorboard"

    @property
    def _parts(self) -> tuple[Path, ...]:
        return self.state, self.trials, self.tensorboard

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @property
    def resumable(self) -> bool:
        """Whether anything is saved from which a resumed run can continue."""
        return (
            bool(self.checkpoints)
            or any(self.trials.glob("*/report.json"))
            or any(RunFolder(trial).checkpoints for trial in self.trials.glob("*"))
        )

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self / "recipe.yaml").is_file()

    @property
    def started_ns(self) -> int | None:
        """The time at which a run was last started or resumed here, in nanoseconds; None without a run."""
        return (self / "recipe.yaml").stat().st_mtime_ns if self.exists else None

    @property
    def finished(self) -> bool:
        """Whether pruning is finished here."""
        return (self / "report.json").is_file() and (self / "pruned.safetensors").is_file()

    @property
    def writable(self) -> bool:
        """Whether this process may write in the folder."""
        return os.access(self.path, os.W_OK)

    def require_absent(self, *, force: bool) -> None:
        """Check that a new run can be written here.

        Args:
            force: Allow the files of an earlier run, which `clear` removes.

        Raises:
            RunFolderError: The path exists, and is not a run that may be replaced.
            InputError: The path is not a name in UTF-8.
        """
        require_utf8(self.path)
        if self.path.exists() and not force:
            raise RunFolderError(
                f"{self.path} exists; continue with --resume, start over with --force, or choose another with -o"
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose another run folder with -o")
        theirs = [f"{part.name}/" for part in self._parts if part.exists()]
        theirs += [name for name in FILES if (self / name).exists()]
        # Test tools and others write a report.json too.
        if theirs and not self._lock.exists() and not (self / "progress.json").exists():
            raise RunFolderError(
                f"{self.path} contains {theirs[0]} but no run, and --force would remove it; choose another with -o"
            )

    def create(self, *, force: bool) -> None:
        """Make the folder.

        Args:
            force: Allow a folder that exists.

        Raises:
            RunFolderError: It cannot be made, or something is in the way (see `require_absent`).
        """
        self.require_absent(force=force)
        with self._usable():
            self.path.mkdir(parents=True, exist_ok=force)

    def clear(self) -> None:
        """Remove the files of an earlier run, and only those.

        Raises:
            RunFolderError: They cannot be removed.
        """
        with self._usable():
            for file in FILES:
                (self.path / file).unlink(missing_ok=True)
            for part in self._parts:
                if part.is_dir():
                    shutil.rmtree(part)
            self.state.mkdir()

    def clear_state(self) -> None:
        """Remove the files that only an unfinished run needs."""
        shutil.rmtree(self.state, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here during the block, and remove what a killed process left unfinished.

        Raises:
            RunFolderError: Another process writes here already, or the folder cannot be used.
        """
        with self._usable():
            self._require_own_files()
            lock = acquire_lock(self._lock, f"{self.path} is in use by another process; {WAIT} another folder with -o")
        try:
            with self._usable():
                self._remove_unfinished()
            yield
        finally:
            lock.release()

    def _require_own_files(self) -> None:
        """Raise RunFolderError for a link, pipe or device among the run's files, which would redirect or block a write.

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
                    f"{path} is a {kind}, but a run writes only to files of its own; delete it, or put the file itself in its place"
                )
        for trial in self.trials.glob("*"):
            RunFolder(trial)._require_own_files()

    def _remove_unfinished(self) -> None:
        """Remove the unfinished files of processes that were killed."""
        remove_unfinished(self.path.glob(UNFINISHED_EXPORTS + "*"))
        remove_unfinished(self.path.glob(f"**/{UNFINISHED_FILES}"))  # after the folders above, in which some are
        if self.finished:
            self.clear_state()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Raise an OSError of a block as RunFolderError."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be used as run folder: {error.strerror} ({error.filename})"
            ) from error

    def require_run(self) -> None:
        """Check that a run was started here.

        Raises:
            RunFolderError: There is no such folder, or it holds no run.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"no run folder {self.path}; {_known_runs(self.path.parent)}")
        if not self.exists:
            raise RunFolderError(f"{self.path} is not a run folder (it has no recipe.yaml)")

    def require_whole(self) -> None:
        """Check that a finished run still has its network.

        Raises:
            RunFolderError: The file of the network is missing.
        """
        if (self / "report.json").is_file() and not self.finished:
            raise RunFolderError(f"{self / 'pruned.safetensors'} is missing; prune again with --force")

    def require_finished(self, need: str) -> None:
        """Check that pruning is finished here.

        Args:
            need: What needs it, for the message, such as "export".

        Raises:
            RunFolderError: There is no run, or it is not finished.
        """
        self.require_run()
        self.require_whole()
        if not self.finished:
            raise RunFolderError(
                f"{self.path} has not finished pruning, which {need} needs; continue with: "
                f"edcompress prune WEIGHTS --recipe {quote(str(self / 'recipe.yaml'))} -o {quote(str(self.path))} --resume"
            )

    def read_recipe(self) -> Recipe:
        """Read the resolved recipe of the run; one by an earlier version reads image files as that version did.

        Raises:
            RecipeError: The recipe is missing or not valid.
        """
        return read_saved_recipe(self / "recipe.yaml")

    def read_report(self) -> Report:
        """Read the report of the run.

        Raises:
            RunFolderError: The report is missing or not valid.
        """
        return read_report(self / "report.json")


RunOrPath = RunFolder | str | Path
"""A run folder, or its path."""


def path_of(given: RunOrPath) -> Path:
    """Return the path of a run folder, or the path that is given."""
    return given.path if isinstance(given, RunFolder) else Path(given)


def _known_runs(root: Path) -> str:
    names: list[Any] = sorted(path.parent.name for path in root.glob("*/recipe.yaml"))
    return f"{root} contains {', '.join(names)}" if names else f"there is no run in {root}"
