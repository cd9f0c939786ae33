"""The gate: a report against limits, in exact arithmetic, so that a value equal to its limit passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Check, Skipped, Verdict
from edcompress.report.gate.figures import Figure, NotMeasuredError, decimal
from edcompress.report.gate.limit_registry import REGRESSION_LIMITS, RUN_LIMITS, check_name, is_upper
from edcompress.report.gate.noise import noise_warning, waiting_and_fix
from edcompress.report.gate.regressions import require_comparable
from edcompress.report.gate.sanity import alarms, chance_checks


@dataclass(frozen=True)
class Doubt:
    """Why a figure is not to be trusted, and the worst that it can be if that is known and is to be compared in its place."""

    cause: str
    worst: Fraction | None

    def worse_end(self, figure: Figure) -> Fraction | None:
        """Return the smaller of the worst and the lower end of the figure's interval; None if one is unknown, so that the check fails."""
        if self.worst is None or figure.interval is None or not math.isfinite(figure.interval.low):
            return None
        return min(self.worst, decimal(figure.interval.low))

    def note(self, compared: Fraction | None) -> str:
        """Return what the check says about the doubt."""
        return f"{'not trusted' if compared is None else 'the worst that it can be is compared'}: {self.cause}"


def judge(report: Report, gate: Gate, baseline: Report | None = None) -> Verdict:
    """Return the verdict on a report: one check per limit that is set, which passes when all of them do; a NaN figure fails its check.

    A network at chance level fails one more check, unless `allow_weak_dense`.

    Args:
        report: The report of an exported run.
        gate: The limits.
        baseline: The report of another run, for the limits on regressions, which are ignored without it. What cannot be compared is
            skipped.

    Raises:
        InputError: No limit is set, all are skipped, a figure has not been measured yet, or the baseline is of other images.
    """
    figures, notes = _run_figures(report, gate), tuple[str, ...]()
    if baseline is not None:
        notes = require_comparable(report, baseline)
        figures |= _regression_figures(report, gate, baseline)
    doubts = _doubts(report, gate, baseline)
    compared = {key: figure for key, figure in figures.items() if isinstance(figure, Figure)}
    checks = [_check(key, figure, gate, doubts.get(key)) for key, figure in compared.items()]
    skipped = [
        Skipped(name=check_name(key), limit=gate.limits[key], reason=reason)
        for key, reason in figures.items()
        if isinstance(reason, str)
    ]
    _require_checks(checks, skipped, gate)
    checks += chance_checks(report, gate)
    return Verdict(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        skipped=tuple(skipped),
        warnings=(*notes, *_noise_warnings(compared.keys(), report, baseline), *alarms(report)),
        confidence=gate.confidence,
    )


def _run_figures(report: Report, gate: Gate) -> dict[str, Figure | str]:
    """Return the figures of the limits on one run, by recipe key, or the reason to skip one."""
    found: dict[str, Figure | str] = {}
    for key, limit in RUN_LIMITS.items():
        if key in gate.limits:
            try:
                found[key] = limit.figure(report, gate)
            except NotMeasuredError as error:
                raise InputError(
                    f"there is no {error.what} yet, which {key} needs; run `edcompress export --onnx` first (again, if an earlier version "
                    "exported)"
                ) from None
    return found


def _regression_figures(report: Report, gate: Gate, baseline: Report) -> dict[str, Figure | str]:
    return {key: limit.figure(report, baseline) for key, limit in REGRESSION_LIMITS.items() if key in gate.limits}


def _require_checks(checks: Sequence[Check], skipped: Sequence[Skipped], gate: Gate) -> None:
    """Raise InputError if nothing is checked, unless that is allowed."""
    if not checks and not skipped:
        raise InputError("the gate has no limits; set at least one, e.g. --max-top1-drop 0.01")
    if not checks and not gate.allow_unheld:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise InputError(
            f"the gate checks nothing, because every limit was skipped ({reasons}); set a limit that can be checked, e.g. --max-top1-drop "
            "0.01, or allow it with --allow-unheld"
        )


def _noise_warnings(keys: Set[str], report: Report, baseline: Report | None) -> tuple[str, ...]:
    """Return what is wrong with the latencies behind the limits of these recipe keys."""
    regressions = {key for key, limit in REGRESSION_LIMITS.items() if limit.timed}
    timed = {key for key, limit in RUN_LIMITS.items() if limit.timed} | regressions
    warnings = []
    if timed & keys and (text := noise_warning(report.headline_latencies)):
        warnings.append(text)
    if baseline is not None and regressions & keys and (text := noise_warning(baseline.headline_latencies)):
        warnings.append(f"the baseline: {text}")
    return tuple(warnings)


def _doubts(report: Report, gate: Gate, baseline: Report | None) -> Mapping[str, Doubt]:
    """Return, by recipe key, why figures may look better than they are.

    Waiting makes a time longer, so that a limit on this run's own time only gets stricter; but a figure of two times looks better if the
    other one, the dense network's or the baseline's, waited.
    """
    if gate.disturbed == "allow":
        return {}
    doubts = {}
    if cause := waiting_and_fix(report.headline_latencies):
        for key, limit in RUN_LIMITS.items():
            if limit.worst:
                doubts[key] = Doubt(cause, limit.worst(report) if gate.disturbed == "bound" else None)
    if baseline is not None and (cause := waiting_and_fix(baseline.headline_latencies)):
        doubts |= {key: Doubt(cause, None) for key, limit in REGRESSION_LIMITS.items() if limit.timed}
    return doubts


def _check(key: str, figure: Figure, gate: Gate, doubt: Doubt | None) -> Check:
    """Return the check of one limit.

    margin = limit - figure (figure - limit for a lower limit), exact; a figure that is not a number, or not to be trusted, fails.
    """
    limit, sign = gate.limits[key], 1 if is_upper(key) else -1
    by_bound = gate.confidence == "bound"
    compared = doubt.worse_end(figure) if doubt else _compared(figure, sign, by_bound=by_bound)
    margin = None if compared is None else sign * (decimal(limit) - compared)
    return Check(
        name=check_name(key),
        value=math.nan if figure.value is None else float(figure.value),
        limit=limit,
        margin=math.nan if margin is None else float(margin),
        passed=margin is not None and margin >= 0,
        interval=figure.interval,
        pairs=figure.pairs,
        p_value=figure.p_value,
        held=None if compared is None or doubt is None else float(compared),
        note=doubt.note(compared) if doubt else figure.note,
        label=figure.label,
        share=figure.share,
    )


def _compared(figure: Figure, sign: int, *, by_bound: bool) -> Fraction | None:
    """Return what is compared with the limit: the value, or the end of its interval on the limit's side."""
    if figure.value is None or figure.interval is None or not by_bound:
        return figure.value
    end = figure.interval.high if sign > 0 else figure.interval.low
    return decimal(end) if math.isfinite(end) else None
