"""The gate: a report against limits, in exact arithmetic, so that a value equal to its limit passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import Gate
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Check, Skipped, Verdict
from edcompress.report.gate.limits import FIGURES, Figure, decimal, least_speedup
from edcompress.report.gate.noise import noise_warning
from edcompress.report.gate.regressions import REGRESSIONS, require_comparable
from edcompress.report.gate.sanity import alarms, chance_checks
from edcompress.report.render.formatting import measure_again, waiting


@dataclass(frozen=True)
class Doubt:
    """Why a figure is not to be trusted, and the worst that it may be, where that is known and may be held in its place."""

    cause: str
    worst: Fraction | None

    def bad_end(self, figure: Figure) -> Fraction | None:
        """The worse of that and of the lower end of the figure's interval; None where one of them is not known, so that the check fails."""
        if self.worst is None or figure.interval is None or not math.isfinite(figure.interval.low):
            return None
        return min(self.worst, decimal(figure.interval.low))

    def told(self, held: Fraction | None) -> str:
        """What the check says of it."""
        return f"{'not trusted' if held is None else 'the worst that it may be is held'}: {self.cause}"


def judge(report: Report, limits: Gate, baseline: Report | None = None) -> Verdict:
    """One check per limit that is not None; the verdict passes when all of them do, and a NaN value fails its check.

    A network at chance level fails one more check, unless `allow_weak_dense`.

    Limits on regressions are held only beside a `baseline`, the report of another run; what cannot be compared is skipped. Raises
    InputError when no limit is set or all are skipped, when a limit's value has not been measured yet, and for a baseline of other images.
    """
    doubts = _doubts(report, baseline, limits)
    found = {key: find(report, limits) for key, find in FIGURES.items() if _is_set(limits, key)}
    notes: tuple[str, ...] = ()
    if baseline is not None:
        notes = require_comparable(report, baseline)
        found |= {key: beside(report, baseline) for key, beside in REGRESSIONS.items() if _is_set(limits, key)}
    checks, skipped = [], []
    for key, figure in found.items():
        if isinstance(figure, str):
            skipped.append(Skipped(name=_name(key), limit=getattr(limits, key), reason=figure))
        else:
            checks.append(_check(key, figure, limits, doubts.get(key)))
    if not checks and not skipped:
        raise InputError("the gate has no limits; set at least one, e.g. --max-top1-drop 0.01")
    if not checks and not limits.allow_unheld:
        raise InputError(_nothing_held(skipped))
    warnings = (*notes, *_warnings({check.name for check in checks}, report, baseline), *alarms(report))
    checks += chance_checks(report, limits)
    passed = all(check.passed for check in checks)
    return Verdict(
        passed=passed, checks=tuple(checks), skipped=tuple(skipped), warnings=warnings, confidence=limits.confidence
    )


def _nothing_held(skipped: Sequence[Skipped]) -> str:
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
    return (
        f"the gate holds nothing, for every limit was skipped ({reasons}); set a limit that can be held, e.g. --max-top1-drop 0.01, or "
        "allow it with --allow-unheld"
    )


def _warnings(held: Set[str], report: Report, baseline: Report | None) -> tuple[str, ...]:
    """What is wrong with the latencies that the checks of these names go by."""
    timed = {"": (report, {"speedup", "latency_ms", "latency_regression"})}
    if baseline is not None:
        timed["the baseline: "] = (baseline, {"latency_regression"})
    found = {whose: noise_warning(one.headline_latencies) for whose, (one, names) in timed.items() if names & held}
    return tuple(f"{whose}{text}" for whose, text in found.items() if text)


def _doubts(report: Report, baseline: Report | None, limits: Gate) -> Mapping[str, Doubt]:
    """By limit, why its figure may look better than it is.

    Waiting makes a time longer, so that it can turn no failure of a limit on this run's own time into a pass; but of two times it may have
    made the dense network's, or the baseline's, longer than the other.
    """
    if limits.disturbed == "allow":
        return {}
    found = {}
    if cause := _untrusted(report):
        found["min_speedup"] = Doubt(cause, least_speedup(report) if limits.disturbed == "bound" else None)
    if baseline is not None and (cause := _untrusted(baseline)):
        found["max_latency_regression"] = Doubt(cause, None)
    return found


def _untrusted(report: Report) -> str | None:
    times = report.headline_latencies
    cause = waiting(times)
    return cause and f"{cause}; {measure_again(times)}"


def _check(key: str, figure: Figure, limits: Gate, doubt: Doubt | None) -> Check:
    """margin = limit - figure (figure - limit for a lower limit), exact; a figure that is no number, or not to be trusted, fails."""
    limit: float = getattr(limits, key)
    sign = 1 if key.startswith("max_") else -1
    held = _held(figure, sign, by_bound=limits.confidence == "bound") if doubt is None else doubt.bad_end(figure)
    margin = None if held is None else sign * (decimal(limit) - held)
    return Check(
        name=_name(key),
        value=math.nan if figure.value is None else float(figure.value),
        limit=limit,
        margin=math.nan if margin is None else float(margin),
        passed=margin is not None and margin >= 0,
        interval=figure.interval,
        pairs=figure.pairs,
        p_value=figure.p_value,
        held=None if held is None or doubt is None else float(held),
        note=doubt.told(held) if doubt else figure.note,
    )


def _held(figure: Figure, sign: int, *, by_bound: bool) -> Fraction | None:
    """What is held against the limit: the value, or the end of its interval on the limit's side."""
    if figure.value is None or figure.interval is None or not by_bound:
        return figure.value
    end = figure.interval.high if sign > 0 else figure.interval.low
    return decimal(end) if math.isfinite(end) else None


def _is_set(limits: Gate, key: str) -> bool:
    return getattr(limits, key) is not None


def _name(key: str) -> str:
    """The figure's name: the limit's without its max_ or min_."""
    return key[4:]
