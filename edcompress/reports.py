"""report.json and report.html of a run, and the gate over them. Imports no torch: a CI step answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from edcompress.bindings import ALONE, require_bound
from edcompress.delivery import Gate
from edcompress.errors import InputError
from edcompress.report.page import render_page
from edcompress.report.possible import require_possible
from edcompress.report.shipping import recommend
from edcompress.report.verdict import judge
from edcompress.results import Report, Verdict
from edcompress.runs import RunFolder, parsed, read_report, write_text
from edcompress.section import MOST_INTEGER


class _Group(BaseModel):
    name: str
    channels: int = Field(gt=0, le=MOST_INTEGER)
    kept: list[int]


class _Plan(BaseModel):
    """What the page shows of plan.json; its own schema needs torch."""

    groups: list[_Group]


class _Generation(BaseModel):
    """What the page shows of a line of search.jsonl."""

    generation: int = Field(ge=0, le=MOST_INTEGER)
    budget: float | None = None
    energy_best: float | None = None
    energy_mean: float | None = None
    diversity: float | None = None


def gate(target: RunFolder | Path, limits: Gate | None = None, *, baseline: RunFolder | Path | None = None) -> Verdict:
    """The verdict on a run (then saved in its report, where that can be written) or on a report.json alone; limits default to the recipe's.

    With a `baseline`, such as main's run, the limits on regressions are held too.
    """
    earlier = None if baseline is None else _evidence(baseline)[0]
    limits = limits or limits_of(target, {})
    if not isinstance(target, RunFolder):
        return _judged(target, limits, earlier)[1]
    target.require_finished("gate")
    if not target.writable:
        return _judged(target, limits, earlier)[1]
    with target.locked():
        report, verdict = _judged(target, limits, earlier)
        ship = recommend(report, limits) if report.pruned.latency_ms else None
        told = {"verdict": verdict, "ship": ship, "limits": target.read_recipe().gate}
        save_report(target, report.model_copy(update=told))
    return verdict


def _judged(target: RunFolder | Path, limits: Gate, baseline: Report | None) -> tuple[Report, Verdict]:
    report, files = _evidence(target)
    verdict = judge(report, limits, baseline)
    warnings = (*_filled_in(target, report, limits), *verdict.warnings)
    return report, verdict.model_copy(update={"files": files, "warnings": warnings})


def _evidence(target: RunFolder | Path) -> tuple[Report, str]:
    """The report, and whether its figures are of the files beside it; InputError where they are not, or cannot be."""
    if isinstance(target, RunFolder):
        target.require_finished("gate")
    path = target / "report.json" if isinstance(target, RunFolder) else target
    report = read_report(path)
    require_possible(report, str(path))
    return report, require_bound(target, report) if isinstance(target, RunFolder) else ALONE


def limits_of(target: RunFolder | Path, given: dict[str, Any]) -> Gate:
    """The limits of the recipe beside the report, else those in the report, else the defaults, with those `given` in their place."""
    base = _recipes_limits(target) or Gate()
    try:
        return Gate.model_validate(base.model_dump() | given)
    except ValidationError as error:
        faults = (f"--{str(d['loc'][0]).replace('_', '-')} {d['input']}: {d['msg']}" for d in error.errors())
        raise InputError("\n".join(faults)) from None


def _folder_of(target: RunFolder | Path) -> RunFolder:
    return target if isinstance(target, RunFolder) else RunFolder(target.parent)


def _recipes_limits(target: RunFolder | Path) -> Gate | None:
    folder = _folder_of(target)
    if folder.exists:
        return folder.read_recipe().gate
    return None if isinstance(target, RunFolder) else read_report(target).limits


def _filled_in(target: RunFolder | Path, report: Report, limits: Gate) -> tuple[str, ...]:
    """The warning that defaults took the place of limits that are not known; empty where they are."""
    if report.limits or _folder_of(target).exists:
        return ()
    held = ", ".join(
        f"{key} {value}" for key, value in limits if key.startswith(("max_", "min_")) and value is not None
    )
    return (
        f"the report carries no limits, and there is no recipe.yaml beside it; what was not given is edcompress's default, and it was held "
        f"to {held}",
    )


def save_report(folder: RunFolder, report: Report, into: Path | None = None) -> Report:
    """Write the page made of it, and then report.json, with which a run is finished, or write both `into` another folder; the report."""
    _write_page(folder, report, into)
    write_text((into or folder.path) / "report.json", report.model_dump_json(indent=1) + "\n")
    return report


def render(folder: RunFolder) -> Report:
    """Write report.html, where that can be, from what the run folder holds, and return the report."""
    folder.require_finished("report")
    if not folder.writable:
        return folder.read_report()
    with folder.locked():
        report = folder.read_report()
        _write_page(folder, report)
    return report


def _write_page(folder: RunFolder, report: Report, into: Path | None = None) -> None:
    plan = parsed(folder / "plan.json", _Plan.model_validate_json).model_dump()
    flags = folder.read_recipe().model.flags
    write_text((into or folder.path) / "report.html", render_page(report, _generations(folder), plan, flags))


def _generations(folder: RunFolder) -> list[dict[str, Any]]:
    log = folder / "search.jsonl"
    if not log.exists():
        return []
    return parsed(log, lambda text: [_Generation.model_validate_json(line).model_dump() for line in text.splitlines()])
