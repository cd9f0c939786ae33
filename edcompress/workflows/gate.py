"""Verb: gate a run or a report. Imports no torch: a CI step answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.recipe.plain_faults import plain_message
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.consistency import require_possible
from edcompress.report.gate.recommendation import recommend
from edcompress.report.gate.verdict import judge
from edcompress.runs.file_records import REPORT_ALONE, require_bound
from edcompress.runs.folder import RunFolder, RunOrPath
from edcompress.runs.reading import read_report
from edcompress.workflows.reporting import save_report


def gate(target: RunOrPath, limits: Gate | None = None, *, baseline: RunOrPath | None = None) -> Verdict:
    """Check a run against limits, save the verdict in its report if that can be written, and return it.

    Args:
        target: A finished and exported run, the path of its folder, or the path of a report.json alone.
        limits: The limits; by default those of the recipe.
        baseline: A run, its folder or a report.json, such as main's, for the limits on regressions.

    Returns:
        The verdict, which passes if every check does.

    Raises:
        InputError: The run is not finished, a figure has not been measured, or no limit can be checked.
    """
    earlier = None if baseline is None else _read_evidence(_run_or_report(baseline))[0]
    run = _run_or_report(target)
    limits = limits or limits_of(run, {})
    if not isinstance(run, RunFolder):
        return _judge_evidence(run, limits, earlier)[1]
    run.require_finished("gate")
    if not run.writable:
        return _judge_evidence(run, limits, earlier)[1]
    with run.locked():
        report, verdict = _judge_evidence(run, limits, earlier)
        ship = recommend(report, limits) if report.pruned.latency_ms else None
        save_report(run, report.with_verdict(verdict).with_shipping(ship, run.read_recipe().gate))
    return verdict


def limits_of(target: RunOrPath, given: dict[str, Any]) -> Gate:
    """Return the limits of a run or report.json.

    Args:
        target: The run folder, or the report.json.
        given: Keys of the gate section, with values that take the place of the others.

    Returns:
        The limits of the recipe beside the report, else those in the report, else the defaults, each with the values `given`.

    Raises:
        InputError: A given value is not valid; the message names its option.
    """
    base = _recipe_limits(_run_or_report(target)) or Gate()
    try:
        return Gate.model_validate(base.model_dump() | given)
    except ValidationError as error:
        faults = (
            f"--{str(d['loc'][0]).replace('_', '-')} {d['input']}: {plain_message(d, Gate.model_fields.get(str(d['loc'][0])))}"
            for d in error.errors()
        )
        raise InputError("\n".join(faults)) from None


def _run_or_report(given: RunOrPath) -> RunFolder | Path:
    """Return a run folder, or the path of a report.json alone."""
    if isinstance(given, RunFolder):
        return given
    path = Path(given)
    return path if path.is_file() or path.suffix == ".json" else RunFolder(path)


def _judge_evidence(target: RunFolder | Path, limits: Gate, baseline: Report | None) -> tuple[Report, Verdict]:
    report, files = _read_evidence(target)
    verdict = judge(report, limits, baseline)
    return report, verdict.with_evidence(files, _warn_of_defaults(target, report, limits))


def _read_evidence(target: RunFolder | Path) -> tuple[Report, str]:
    """Return the report, and whether its figures are of the files beside it; InputError if they are not, or are impossible."""
    if isinstance(target, RunFolder):
        target.require_finished("gate")
    path = target / "report.json" if isinstance(target, RunFolder) else target
    report = read_report(path)
    require_possible(report, str(path))
    return report, require_bound(target, report) if isinstance(target, RunFolder) else REPORT_ALONE


def _folder_of(target: RunFolder | Path) -> RunFolder:
    return target if isinstance(target, RunFolder) else RunFolder(target.parent)


def _recipe_limits(target: RunFolder | Path) -> Gate | None:
    folder = _folder_of(target)
    if folder.exists:
        return folder.read_recipe().gate
    return None if isinstance(target, RunFolder) else read_report(target).limits


def _warn_of_defaults(target: RunFolder | Path, report: Report, limits: Gate) -> tuple[str, ...]:
    """Return the warning that defaults replaced unknown limits; empty if the limits are known."""
    if report.limits or _folder_of(target).exists:
        return ()
    values = ", ".join(f"{key} {value}" for key, value in limits.limits.items())
    return (
        "the report has no limits, and there is no recipe.yaml beside it; edcompress's defaults were used for what was not given: "
        f"{values}",
    )
