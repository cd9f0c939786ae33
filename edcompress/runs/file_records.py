"""Records of a run's files: they bind a report to the bytes that were measured and to the recipe. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edcompress.core.errors import RunFolderError
from edcompress.core.recipe.diff import changes
from edcompress.core.results.report import FileRecord, Report
from edcompress.runs.folder import RunFolder

OF_PRUNING = ("plan.json", "pruned.safetensors")
"""Files that `prune` writes and its report is about; those of `export` end in .onnx."""

CHECKED = "checked"
"""What a verdict says about files that are those of its report."""

REPORT_ALONE = "not checked: a report.json alone was given; give its run folder"


def records(paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Return size and hash of each file, by name."""
    return {path.name: _record(path) for path in paths}


def require_bound(folder: RunFolder, report: Report) -> str:
    """Check that the report's figures are of the files and the recipe in the folder.

    Returns:
        CHECKED, or what could not be checked and how to have it checked.

    Raises:
        RunFolderError: A file is missing or differs, or the recipe differs; the message says the fix.
    """
    if fault := next(faults(folder, report), None):
        raise RunFolderError(fault)
    if not any(name.endswith(".onnx") for name in report.files):
        return f"not checked: an earlier version exported them; run `edcompress export {folder.path} --onnx` again to have them checked"
    return (
        CHECKED
        if report.settings is not None
        else f"{CHECKED}; the recipe is not, because an earlier version pruned by it"
    )


def require_as_written(folder: RunFolder, written: Mapping[str, FileRecord]) -> None:
    """Raise RunFolderError if a file from which the run in `folder` continues is not the one that it wrote."""
    for name, record in written.items():
        path = folder.path / name
        fault = _difference(path, record) if path.is_file() else "it is missing"
        if fault:
            raise RunFolderError(
                f"{path} is not the file that this run wrote ({fault}); put it back, or start over with --force"
            )


def faults(folder: RunFolder, report: Report) -> Iterator[str]:
    """Yield each difference between the folder and what the report says of it, with the fix; hashes come last, because they are slow."""
    yield from _changed_settings(folder, report)
    for name in report.files:
        if not (folder.path / name).is_file():
            yield f"{folder.path / name} is missing, but report.json lists it; {_fix(folder, name)}"
    for name, record in report.files.items():
        path = folder.path / name
        if path.is_file() and (fault := _difference(path, record)):
            yield f"{path} is not the file that report.json lists ({fault}); {_fix(folder, name)}"


def _changed_settings(folder: RunFolder, report: Report) -> Iterator[str]:
    recipe = folder.read_recipe()
    if report.settings is None:
        return
    if changed := changes(report.settings, recipe.pruning_settings):
        listed = ", ".join(f"{key} was {before!r} and is {now!r}" for key, before, now in changed)
        yield (
            f"{folder / 'report.json'} and {folder / 'recipe.yaml'} are of different recipes: {listed}; put back the recipe that belongs "
            "to the report, or prune again with --force"
        )


def _difference(path: Path, record: FileRecord) -> str:
    """Return how a file differs from its record; "" if it does not."""
    if (size := path.stat().st_size) != record.bytes:
        return f"{size} bytes, not {record.bytes}"
    try:
        found = _record(path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if found == record else f"sha256 {found.sha256[:16]}..., not {record.sha256[:16]}..."


def _fix(folder: RunFolder, name: str) -> str:
    if name.endswith(".onnx"):
        return f"run `edcompress export {folder.path} --onnx` again"
    return "put it back, or prune again with --force"


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(sha256=digest, bytes=path.stat().st_size)
