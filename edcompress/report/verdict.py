"""The gate: a report against limits, in exact arithmetic, so that a value equal to its limit passes."""

from __future__ import annotations

import math
from collections.abc import Set
from fractions import Fraction

from edcompress.delivery import Gate
from edcompress.errors import InputError
from edcompress.report.baseline import REGRESSIONS, require_comparable
from edcompress.report.figures import FIGURES, Figure, decimal
from edcompress.report.wording import disturbed
from edcompress.results import Check, Report, Skipped, Verdict


def judge(report: Report, limits: Gate, baseline: Report | None = None) -> Verdict:
    """One check per limit that is not None; the verdict passes when all of them do, and a NaN value fails its check.

    Limits on regressions are held only beside a `baseline`, the report of another run; what cannot be compared is skipped. Raises
    InputError when no limit is set, when a limit's value has not been measured yet, and for a baseline of other test images.
    """
    checks = [_check(key, find(report, limits), limits) for key, find in FIGURES.items() if _is_set(limits, key)]
    skipped = []
    if baseline is not None:
        require_comparable(report, baseline)
        for key, beside in REGRESSIONS.items():
            if not _is_set(limits, key):
                continue
            found = beside(report, baseline)
            if isinstance(found, str):
                skipped.append(Skipped(name=_name(key), limit=getattr(limits, key), reason=found))
            else:
                checks.append(_check(key, found, limits))
    if not checks and not skipped:
        raise InputError("the gate has no limits; set at least one, e.g. --max-top1-drop 0.01")
    passed = all(check.passed for check in checks)
    warnings = _warnings({check.name for check in checks}, report, baseline)
    return Verdict(
        passed=passed, checks=tuple(checks), skipped=tuple(skipped), warnings=warnings, confidence=limits.confidence
    )


def _warnings(held: Set[str], report: Report, baseline: Report | None) -> tuple[str, ...]:
    """What is wrong with the latencies that the checks of these names go by."""
    timed = {"": (report, {"speedup", "latency_ms", "latency_regression"})}
    if baseline is not None:
        timed["the baseline: "] = (baseline, {"latency_regression"})
    found = {whose: disturbed(one.latencies) for whose, (one, names) in timed.items() if names & held}
    return tuple(f"{whose}{text}" for whose, text in found.items() if text)


def _check(key: str, figure: Figure, limits: Gate) -> Check:
    """margin = limit - figure (figure - limit for a lower limit), exact; a figure that is no number fails."""
    limit: float = getattr(limits, key)
    sign = 1 if key.startswith("max_") else -1
    held = _held(figure, sign, by_bound=limits.confidence == "bound")
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
