"""Newest, fresh and listed run folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from edcompress.core.errors import RunFolderError
from edcompress.runs.folder import RunFolder

LEFT_BY_RUNS = ("recipe.yaml", "report.json", "plan.json", "progress.json", "log.jsonl")
"""Files by which a folder is recognised as a run's, even if others are gone."""


def newest(root: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """Return the run started last under `root`.

    Args:
        root: The folder of runs.
        name: A recipe's name, for the runs of that recipe only, in folders named by `fresh`.

    Raises:
        RunFolderError: There is no such run.
    """
    patterns = ["*/"] if name is None else [f"{escape(name)}/", f"{escape(name)}-[0-9]*/"]
    found = [RunFolder(path) for pattern in patterns for path in root.glob(pattern)]
    # The first run of a recipe called NAME-2 is in a folder with the name of the second run of NAME.
    last = latest_of(run for run in found if name is None or (run.exists and run.read_recipe().name == name))
    if last is None:
        raise RunFolderError(
            f"no run {f'of {name} ' if name else ''}under {root}/; name one, or start one with: edcompress prune WEIGHTS --recipe RECIPE"
        )
    return last


def latest_of(folders: Iterable[RunFolder]) -> RunFolder | None:
    """Return the folder whose run started last, or None."""
    return max((folder for folder in folders if folder.exists), key=lambda folder: folder.started_ns or 0, default=None)


def fresh(name: str, root: Path = Path("runs")) -> RunFolder:
    """Return a run folder that does not exist yet: runs/NAME, or runs/NAME-2 and so on."""
    names = [name] + [f"{name}-{n}" for n in range(2, 10_000)]
    return RunFolder(next(path for name in names if not (path := root / name).exists()))


def find(path: Path | None) -> RunFolder:
    """Return the run at `path`, or the one started last in a folder of runs, such as a sweep's or the default ./runs.

    Raises:
        RunFolderError: There is no run.
    """
    root = Path("runs") if path is None else path
    folder = RunFolder(root)
    if not folder.exists:
        if last := latest_of(run_folders(root)):
            return last
        if path is None:
            return newest()
    folder.require_run()
    return folder


def run_folders(root: Path) -> list[RunFolder]:
    """Return the runs in `root`, and in the sweeps in it."""
    found = []
    for path in sorted(root.glob("*/")):
        inside = [other.parent for other in path.glob("*/recipe.yaml")]
        is_run = any(os.path.lexists(path / name) for name in LEFT_BY_RUNS)
        found += [path] if is_run else sorted(inside)
    return [RunFolder(path) for path in found]
