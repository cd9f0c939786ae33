"""A verdict as rows of short texts: for the terminal, the page, and CI servers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from edcompress.core.results.verdict import Check, Verdict
from edcompress.report.render.formatting import MISSING, milliseconds, points, tiny


class CheckRow(NamedTuple):
    """One limit of the gate."""

    name: str
    value: str
    limit: str
    margin: str
    answer: str

    @property
    def sentence(self) -> str:
        """The row as one line of text."""
        return f"{self.name} {self.value}, limit {self.limit}, margin {self.margin}: {self.answer}"


class SkippedRow(NamedTuple):
    """One limit that could not be held, and why."""

    name: str
    reason: str


class CheckForm(NamedTuple):
    """How a limit of the gate is shown: its name, and its numbers."""

    name: str
    text: Callable[[float], str]
    sign: str = "≤"


def check_rows(verdict: Verdict) -> list[CheckRow]:
    """Value, limit, margin and pass/FAIL of each check; the value goes with what was held in its place."""
    return [_check_row(check, by_bound=verdict.confidence == "bound") for check in verdict.checks]


def check_sentences(verdict: Verdict) -> list[str]:
    """Each check as one line of text, with what is to be said of it."""
    rows = zip(check_rows(verdict), verdict.checks, strict=True)
    return [f"{row.sentence}; {check.note}" if check.note else row.sentence for row, check in rows]


def check_notes(verdict: Verdict) -> list[str]:
    """What stands below the checks: intervals and tests of those that have them, what else is to be said of them, why limits were
    skipped, and warnings."""
    notes = [_check_note(check) for check in verdict.checks if check.interval]
    if verdict.confidence == "bound" and notes:
        notes.append("Where there is an interval, its bad end is held against the limit.")
    notes += [f"{_form(check.name).name}: {check.note}" for check in verdict.checks if check.note]
    notes += [f"{row.name}: skipped, {row.reason}" for row in skipped_rows(verdict)]
    notes += [f"files: {verdict.files}"] if verdict.files else []
    return notes + [f"warning: {text}" for text in verdict.warnings]


def skipped_rows(verdict: Verdict) -> list[SkippedRow]:
    """The limits that were skipped."""
    return [SkippedRow(_form(one.name).name, one.reason) for one in verdict.skipped]


def _check_row(check: Check, *, by_bound: bool) -> CheckRow:
    form = _form(check.name)
    value, limit, margin = (
        MISSING if math.isnan(number) else form.text(number) for number in (check.value, check.limit, abs(check.margin))
    )
    # Of a margin that is rounded to zero, too.
    sign = "" if math.isnan(check.margin) else "-" if check.margin < 0 else "+"
    if check.held is not None:
        value += f" to {form.text(check.held)}"
    elif by_bound and check.interval:
        value += f" to {form.text(check.interval.high if form.sign == '≤' else check.interval.low)}"
    return CheckRow(form.name, value, f"{form.sign} {limit}", sign + margin, "pass" if check.passed else "FAIL")


def _check_note(check: Check) -> str:
    form, interval = _form(check.name), check.interval
    assert interval
    note = (
        f"{form.name}: {100 * interval.confidence:g} % interval {form.text(interval.low)} to {form.text(interval.high)}"
    )
    if check.pairs is None or check.p_value is None:
        return note
    pairs = check.pairs
    return (
        f"{note}; right in dense.onnx alone {pairs.dense_only}, in pruned.onnx alone {pairs.other_only} of {pairs.total} "
        f"images, McNemar's exact p = {check.p_value:.2g}"
    )


def _form(name: str) -> CheckForm:
    return _CHECK_FORMS.get(name, CheckForm(name, tiny))


def _points(value: float) -> str:
    return points(value, 3).removeprefix("+")


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


_CHECK_FORMS = {
    "top1": CheckForm("top-1", _share, "≥"),
    "top1_drop": CheckForm("top-1 drop", _points),
    "top5_drop": CheckForm("top-5 drop", _points),
    "class_drop": CheckForm("class drop", _points),
    "agreement": CheckForm("agreement", _share, "≥"),
    "speedup": CheckForm("speedup", lambda value: f"{value:.3f}x", "≥"),
    "latency_ms": CheckForm("latency p50", milliseconds),
    "size_ratio": CheckForm("size ratio", _share),
    "size_bytes": CheckForm("ONNX size", lambda value: f"{value:.0f} B"),
    "top1_regression": CheckForm("top-1 regression", _points),
    "latency_regression": CheckForm("latency regression", _share),
    "size_regression": CheckForm("size regression", _share),
    "dense_above_chance": CheckForm("dense top-1 above chance", _share, ">"),
    "pruned_above_chance": CheckForm("pruned top-1 above chance", _share, ">"),
}
