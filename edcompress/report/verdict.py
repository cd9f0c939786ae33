"""The gate: a report against limits, in exact arithmetic, so that a value equal to its limit passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from edcompress.errors import InputError
from edcompress.recipe import Gate
from edcompress.results import Check, Count, Report, Verdict

NOT_MEASURED = "there is no {what} yet to hold against {limit}; run `edcompress export --onnx` first"


def judge(report: Report, limits: Gate) -> Verdict:
    """One check per limit that is not None; the verdict passes when all of them do, and a NaN value fails its check.

    Raises InputError when no limit is set, or when a limit's value has not been measured yet.
    """
    checks = (
        _at_most("top1_drop", limits.max_top1_drop, lambda: _drop(report, "top1")),
        _at_most("top5_drop", limits.max_top5_drop, lambda: _drop(report, "top5")),
        _at_least("speedup", limits.min_speedup, lambda: _speedup(report)),
        _at_most("size_ratio", limits.max_size_ratio, lambda: _size_ratio(report)),
        _at_most("parity", limits.max_parity, lambda: _parity(report)),
    )
    made = tuple(check for check in checks if check is not None)
    if not made:
        raise InputError("the gate has no limits; set at least one, e.g. --max-top1-drop 0.01")
    return Verdict(passed=all(check.passed for check in made), checks=made)


def _at_most(name: str, limit: float | None, measure: Callable[[], Fraction | None]) -> Check | None:
    return None if limit is None else _check(name, measure(), limit, sign=1)


def _at_least(name: str, limit: float | None, measure: Callable[[], Fraction | None]) -> Check | None:
    return None if limit is None else _check(name, measure(), limit, sign=-1)


def _check(name: str, value: Fraction | None, limit: float, sign: int) -> Check:
    """margin = sign * (limit - value), exact; a value that is no number (None) fails."""
    if value is None:
        return Check(name=name, value=math.nan, limit=limit, margin=math.nan, passed=False)
    margin = sign * (_decimal(limit) - value)
    return Check(name=name, value=float(value), limit=limit, margin=float(margin), passed=margin >= 0)


def _decimal(value: float) -> Fraction:
    """The decimal number that people read: 0.01 is 1/100, not the binary fraction next to it."""
    return Fraction(str(value))


def _drop(report: Report, kind: Literal["top1", "top5"]) -> Fraction:
    dense, pruned = (_share(getattr(model.accuracy, kind)) for model in (report.dense, report.pruned))
    return dense - pruned


def _share(count: Count) -> Fraction:
    if count.total <= 0:
        raise InputError("the report's accuracies are over 0 images; run `edcompress prune` with test images")
    return Fraction(count.correct, count.total)


def _speedup(report: Report) -> Fraction | None:
    dense, pruned = report.dense.latency_ms, report.pruned.latency_ms
    if dense is None or pruned is None:
        raise InputError(NOT_MEASURED.format(what="latency", limit="min_speedup"))
    return _ratio(dense.p50, pruned.p50)


def _size_ratio(report: Report) -> Fraction | None:
    dense, pruned = report.dense.size.onnx_bytes, report.pruned.size.onnx_bytes
    if dense is None or pruned is None:
        raise InputError(NOT_MEASURED.format(what="ONNX file", limit="max_size_ratio"))
    return _ratio(pruned, dense)


def _parity(report: Report) -> Fraction | None:
    proof = report.proof.pruned_vs_onnx
    if proof is None:
        raise InputError(NOT_MEASURED.format(what="ONNX file", limit="max_parity"))
    finite = math.isfinite(proof.scale) and math.isfinite(proof.relative)
    return _decimal(proof.relative) if finite else None


def _ratio(above: float, below: float) -> Fraction | None:
    """above / below; None unless both are finite and positive."""
    usable = all(math.isfinite(value) and value > 0 for value in (above, below))
    return _decimal(above) / _decimal(below) if usable else None
