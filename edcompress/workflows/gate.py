"""Verb: gate a run or a report. Imports no torch: a CI step answers at once."""

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
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.runs.reading import read_report
from edcompress.workflows.reporting import save_report


def gate(target: RunOrPath, limits: Gate | None = None, *, baseline: RunOrPath | None = None) -> Verdict:
    """Check a run, or a report.json alone, against its limits.

    The verdict is saved in the run's report if that can be written.

    Args:
        target: The run folder, its path, or the path of a report.json.
        limits: The limits; None: those of the run's recipe, else those in the report.
        baseline: A run or report.json, such as main's, for the limits on regressions.

    Returns:
        The verdict, with each limit and its margin.

    Raises:
        InputError: There is no finished run or report, its figures are impossible, or its files are not those of the report.
    """
    evidence, earlier = _target(target), None if baseline is None else _evidence(_target(baseline))[0]
    limits = limits or limits_of(target, {})
    if not isinstance(evidence, RunFolder):
        return _judged(evidence, limits, earlier)[1]
    evidence.require_finished("gate")
    if not evidence.writable:
        return _judged(evidence, limits, earlier)[1]
    with evidence.locked():
        report, verdict = _judged(evidence, limits, earlier)
        ship = recommend(report, limits) if report.pruned.latency_ms else None
        report = report.with_verdict(verdict).with_shipping(ship, evidence.read_recipe().gate)
        save_report(evidence, report)
    return verdict


def limits_of(target: RunOrPath, given: dict[str, Any]) -> Gate:
    """Return the limits of the recipe beside the report, else those in the report, else the defaults, overridden by those `given`."""
    base = _recorded_limits(_target(target)) or Gate()
    try:
        return Gate.model_validate(base.model_dump() | given)
    except ValidationError as error:
        faults = (f"--{str(d['loc'][0]).replace('_', '-')} {d['input']}: {d['msg']}" for d in error.errors())
        raise InputError("\n".join(faults)) from None


def _target(given: RunOrPath) -> RunFolder | Path:
    """Return a run folder, or the path of a report.json alone."""
    if isinstance(given, RunFolder):
        return given
    path = Path(given)
    return path if path.is_file() or path.suffix == ".json" else RunFolder(path)


def _judged(target: RunFolder | Path, limits: Gate, baseline: Report | None) -> tuple[Report, Verdict]:
    report, files = _evidence(target)
    verdict = judge(report, limits, baseline)
    return report, verdict.with_evidence(files, _unknown_limits(target, report, limits))


def _evidence(target: RunFolder | Path) -> tuple[Report, str]:
    """Return the report, and whether its figures are of the files beside it; raise InputError if they are not, or cannot be."""
    if isinstance(target, RunFolder):
        target.require_finished("gate")
    path = target / "report.json" if isinstance(target, RunFolder) else target
    report = read_report(path)
    require_possible(report, str(path))
    return report, require_bound(target, report) if isinstance(target, RunFolder) else ALONE


def _folder_of(target: RunFolder | Path) -> RunFolder:
    return target if isinstance(target, RunFolder) else RunFolder(target.parent)


def _recorded_limits(target: RunFolder | Path) -> Gate | None:
    """Return the limits of the recipe beside the report, else those in the report, if any."""
    folder = _folder_of(target)
    if folder.exists:
        return folder.read_recipe().gate
    return None if isinstance(target, RunFolder) else read_report(target).limits


def _unknown_limits(target: RunFolder | Path, report: Report, limits: Gate) -> tuple[str, ...]:
    """Return the warning that defaults replaced unknown limits; nothing if the limits are known."""
    if report.limits or _folder_of(target).exists:
        return ()
    used = ", ".join(
        f"{key} {value}" for key, value in limits if key.startswith(("max_", "min_")) and value is not None
    )
    return (
        f"the report carries no limits, and there is no recipe.yaml beside it; limits that were not given are the defaults: {used}",
    )
