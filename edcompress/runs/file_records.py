"""What binds a report to its run: the bytes of the files that were measured, and the recipe that they were made by. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.diff import changes
from edcompress.core.results.report import FileRecord, Report
from edcompress.runs.folder import RunFolder

OF_PRUNING = ("plan.json", "pruned.safetensors")
"""Files that `prune` makes and its report speaks of; those of `export` end in .onnx."""

CHECKED = "checked"
"""What a verdict says of files that are those of its report."""

ALONE = "not checked: a report.json alone was given; give its run folder"


def records(paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Size and hash of each file, by name."""
    return {path.name: _record(path) for path in paths}


def require_bound(folder: RunFolder, report: Report) -> str:
    """Whether the report's figures are of the files and the recipe in the folder: CHECKED, or what could not be checked, and the fix.

    Raises RunFolderError, with the fix, where a file is missing or another one, or where the recipe is.
    """
    if fault := next(faults(folder, report), None):
        raise RunFolderError(fault)
    if not any(name.endswith(".onnx") for name in report.files):
        return f"not checked: an earlier version exported them; run `edcompress export {folder.path} --onnx` again to have them checked"
    return CHECKED if report.settings is not None else f"{CHECKED}; the recipe is not, an earlier version pruned by it"


def require_as_written(folder: RunFolder, told: Mapping[str, FileRecord]) -> None:
    """Raise RunFolderError where a file from which the run in `folder` goes on is not the one that it wrote."""
    for name, record in told.items():
        path = folder.path / name
        fault = _difference(path, record) if path.is_file() else "there is none"
        if fault:
            raise RunFolderError(
                f"{path} is not the file that this run wrote ({fault}); put it back, or start over with --force"
            )


def faults(folder: RunFolder, report: Report) -> Iterator[str]:
    """What of the folder is not what the report speaks of, one by one, with the fix; the hashes come last, for they take their time."""
    yield from _changed_settings(folder, report)
    for name in report.files:
        if not (folder.path / name).is_file():
            yield f"{folder.path / name} is missing, of which report.json speaks; {_fix(folder, name)}"
    for name, told in report.files.items():
        path = folder.path / name
        if path.is_file() and (fault := _difference(path, told)):
            yield f"{path} is not the file of which report.json speaks ({fault}); {_fix(folder, name)}"


def _changed_settings(folder: RunFolder, report: Report) -> Iterator[str]:
    found = folder.read_recipe()
    if report.settings is None:
        return
    if changed := changes(report.settings, found.pruning_settings):
        listed = ", ".join(f"{key} was {told!r} and is {now!r}" for key, told, now in changed)
        yield (
            f"{folder / 'report.json'} is of another recipe than {folder / 'recipe.yaml'}: {listed}; put back the one that "
            "belongs to it, or prune again with --force"
        )


def _difference(path: Path, told: FileRecord) -> str:
    """How a file differs from what was told of it; "" where it does not."""
    if (size := path.stat().st_size) != told.bytes:
        return f"{size} bytes, not {told.bytes}"
    try:
        found = _record(path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if found == told else f"sha256 {found.sha256[:16]}..., not {told.sha256[:16]}..."


def _fix(folder: RunFolder, name: str) -> str:
    if name.endswith(".onnx"):
        return f"run `edcompress export {folder.path} --onnx` again"
    return "put it back, or prune again with --force"


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=digest, bytes=path.stat().st_size)
