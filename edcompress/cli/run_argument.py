"""The run folder a command means."""

from __future__ import annotations

from pathlib import Path

from edcompress.core.errors import InputError
from edcompress.runs.finding import fresh, newest
from edcompress.runs.folder import RunFolder


def run_folder(output: Path | None, name: str, *, resume: bool, force: bool) -> RunFolder:
    """The run folder of a command that makes one; one in the way is said before anything is loaded."""
    require_one_way(resume=resume, force=force)
    if output is None:
        return newest(name=name) if resume else fresh(name)
    folder = RunFolder(output)
    if not resume:
        folder.require_absent(force=force)
    elif not folder.exists:
        raise InputError(f"--resume: no run was begun in {output}; leave --resume away to begin one")
    return folder


def finished(run: Path | None, need: str) -> RunFolder:
    folder = newest() if run is None else RunFolder(run)
    folder.require_finished(need)
    return folder


def require_one_way(*, resume: bool, force: bool) -> None:
    if resume and force:
        raise InputError("--resume goes on with a run and --force starts it over; choose one of them")
