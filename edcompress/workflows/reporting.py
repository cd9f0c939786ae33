"""Write report.json and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from edcompress.core.frozen import MOST_INTEGER
from edcompress.core.results.report import Report
from edcompress.core.system.files import write_text
from edcompress.report.gate.outcome import loud_warnings, remarks
from edcompress.report.render.html_page import render_page
from edcompress.runs.folder import RunFolder
from edcompress.runs.reading import parse_file


class _Group(BaseModel):
    name: str
    channels: int = Field(gt=0, le=MOST_INTEGER)
    kept: list[int]


class _Plan(BaseModel):
    """The part of plan.json that the page shows; its full schema needs torch."""

    groups: list[_Group]


class _Generation(BaseModel):
    """The part of a line of search.jsonl that the page shows."""

    generation: int = Field(ge=0, le=MOST_INTEGER)
    budget: float | None = None
    energy_best: float | None = None
    energy_mean: float | None = None
    diversity: float | None = None


def save_report(folder: RunFolder, report: Report, into: Path | None = None) -> Report:
    """Write report.html, and then report.json, which finishes a run.

    Args:
        folder: The run's folder.
        report: The report.
        into: Another folder to write both files to.

    Returns:
        The report, with the warnings about its results.
    """
    report = report.with_warnings(loud_warnings(report), remarks(report))
    _write_page(folder, report, into)
    write_text((into or folder.path) / "report.json", report.model_dump_json(indent=1) + "\n")
    return report


def render(folder: RunFolder) -> Report:
    """Rewrite report.html of a finished run, if the folder is writable, and return the report."""
    folder.require_finished("report")
    if not folder.writable:
        return folder.read_report()
    with folder.locked():
        report = folder.read_report()
        _write_page(folder, report)
    return report


def _write_page(folder: RunFolder, report: Report, into: Path | None = None) -> None:
    plan = parse_file(folder / "plan.json", _Plan.model_validate_json).model_dump()
    flags = folder.read_recipe().trust_flags
    write_text((into or folder.path) / "report.html", render_page(report, _generations(folder), plan, flags))


def _generations(folder: RunFolder) -> list[dict[str, Any]]:
    log = folder / "search.jsonl"
    if not log.exists():
        return []
    return parse_file(
        log, lambda text: [_Generation.model_validate_json(line).model_dump() for line in text.splitlines()]
    )
