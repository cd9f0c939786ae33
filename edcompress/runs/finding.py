"""Newest, fresh and listed run folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from edcompress.core.errors import RunFolderError
from edcompress.runs.folder import RunFolder

LEFT_BY_RUNS = ("recipe.yaml", "report.json", "plan.json", "progress.json", "log.jsonl")
"""Files by which a folder is taken for a run's, even where others are gone."""


def newest(root: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """The run begun last under `root`, of those that `fresh` called by a recipe's `name` where one is given; else RunFolderError."""
    patterns = ["*/"] if name is None else [f"{escape(name)}/", f"{escape(name)}-[0-9]*/"]
    found = [RunFolder(path) for pattern in patterns for path in root.glob(pattern)]
    # A recipe called NAME-2 has its first run in a folder that is called like the second of NAME.
    last = latest_of(run for run in found if name is None or (run.exists and run.read_recipe().name == name))
    if last is None:
        raise RunFolderError(
            f"no run {f'of {name} ' if name else ''}under {root}/; name one, or make one with: edcompress prune CHECKPOINT --recipe RECIPE"
        )
    return last


def latest_of(folders: Iterable[RunFolder]) -> RunFolder | None:
    """That of the folders in which a run was begun last; None where none was."""
    return max((folder for folder in folders if folder.exists), key=lambda folder: folder.began or 0, default=None)


def fresh(name: str, root: Path = Path("runs")) -> RunFolder:
    """A run folder that does not exist yet: runs/NAME, or runs/NAME-2 and so on."""
    names = [name] + [f"{name}-{n}" for n in range(2, 10_000)]
    return RunFolder(next(path for name in names if not (path := root / name).exists()))


def find(path: Path | None) -> RunFolder:
    """The run at `path`; of a folder of runs, such as a sweep's or the default ./runs, the one begun last.

    RunFolderError where there is none.
    """
    root = Path("runs") if path is None else path
    folder = RunFolder(root)
    if not folder.exists:
        if last := latest_of(run_folders(root)):
            return last
        if path is None:
            return newest()
    folder.require_begun()
    return folder


def run_folders(root: Path) -> list[RunFolder]:
    """The runs in `root`, and in the sweeps in it."""
    found = []
    for path in sorted(root.glob("*/")):
        inside = [other.parent for other in path.glob("*/recipe.yaml")]
        is_run = any(os.path.lexists(path / name) for name in LEFT_BY_RUNS)
        found += [path] if is_run else sorted(inside)
    return [RunFolder(path) for path in found]
