"""report.json and report.html of a run, and the gate over them. Imports no torch: a CI step answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.consistency import require_possible
from edcompress.report.gate.recommendation import recommend
from edcompress.report.gate.verdict import judge
from edcompress.runs.file_records import ALONE, require_bound
from edcompress.runs.folder import RunFolder
from edcompress.runs.reading import read_report
from edcompress.workflows.reporting import save_report


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
