"""The run folder a command means."""

from __future__ import annotations

from pathlib import Path

from edcompress.cli.console import err, say
from edcompress.core.errors import InputError
from edcompress.runs.finding import fresh, newest
from edcompress.runs.folder import RunFolder


def run_folder(output: Path | None, name: str, *, resume: bool, force: bool) -> RunFolder:
    """Return the run folder of a command that makes a run; InputError, before anything is loaded, if it is in the way or missing."""
    require_one_choice(resume=resume, force=force)
    if output is None:
        return newest(name=name) if resume else fresh(name)
    folder = RunFolder(output)
    if not resume:
        folder.require_absent(force=force)
    elif not folder.exists:
        raise InputError(f"--resume: there is no run in {output}; drop --resume to start one")
    return folder


def finished_run(run: Path | None, need: str) -> RunFolder:
    """Return the finished run at a path, by default the newest; RunFolderError, which says that `need` needs one, if there is none."""
    folder = newest() if run is None else RunFolder(run)
    folder.require_finished(need)
    return folder


def run_or_report(path: Path | None) -> RunFolder | Path:
    """Return the report.json at a path, or the finished run."""
    return path if path is not None and path.is_file() else finished_run(path, "gate")


def warn_if_read_only(folder: RunFolder, consequence: str) -> None:
    """Warn if a run folder cannot be written, and of what follows."""
    if not folder.writable:
        say(f"warning: {folder.path} cannot be written; {consequence}", err)


def require_one_choice(*, resume: bool, force: bool) -> None:
    """Raise InputError for --resume together with --force."""
    if resume and force:
        raise InputError("--resume continues a run and --force starts it over; choose one of them")
