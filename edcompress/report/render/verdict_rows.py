"""A verdict as rows of short texts: for the terminal, the page, and CI servers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from edcompress.core.results.verdict import Check, Verdict
from edcompress.report.gate.limit_registry import find_limit
from edcompress.report.render.formatting import MISSING, percentage, plain, tiny


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
    """One limit that could not be checked, and why."""

    name: str
    reason: str


class _CheckForm(NamedTuple):
    """How a check is shown: its name, its numbers, and the sign before its limit."""

    name: str
    text: Callable[[float], str]
    sign: str


_WITHOUT_LIMIT = {
    "dense_above_chance": _CheckForm("dense top-1 above chance", percentage, ">"),
    "pruned_above_chance": _CheckForm("pruned top-1 above chance", percentage, ">"),
}
"""Checks that no recipe key sets."""


def check_rows(verdict: Verdict) -> list[CheckRow]:
    """Return value, limit, margin and pass/FAIL of each check; the value is followed by what was compared in its place."""
    return [_check_row(check, by_bound=verdict.confidence == "bound") for check in verdict.checks]


def check_sentences(verdict: Verdict) -> list[str]:
    """Return each check as one line of text, with its note."""
    rows = zip(check_rows(verdict), verdict.checks, strict=True)
    return [f"{row.sentence}; {check.note}" if check.note else row.sentence for row, check in rows]


def check_notes(verdict: Verdict) -> list[str]:
    """Return the lines below the checks: intervals and tests, notes, why limits were skipped, and warnings."""
    notes = [_interval_note(check) for check in verdict.checks if check.interval]
    if verdict.confidence == "bound" and notes:
        notes.append("Where there is an interval, its worse end is compared with the limit.")
    notes += [f"{_form_of(check).name}: {check.note}" for check in verdict.checks if check.note]
    notes += [f"{row.name}: skipped, {row.reason}" for row in skipped_rows(verdict)]
    notes += [f"files: {verdict.files}"] if verdict.files else []
    return notes + [f"warning: {text}" for text in verdict.warnings]


def skipped_rows(verdict: Verdict) -> list[SkippedRow]:
    """Return the limits that were skipped."""
    return [SkippedRow(_form(one.name).name, one.reason) for one in verdict.skipped]


def _check_row(check: Check, *, by_bound: bool) -> CheckRow:
    form = _form_of(check)
    value, limit, margin = (
        MISSING if math.isnan(number) else form.text(number) for number in (check.value, check.limit, abs(check.margin))
    )
    # A margin that is rounded to zero keeps its sign.
    sign = "" if math.isnan(check.margin) else "-" if check.margin < 0 else "+"
    if check.held is not None:
        value += f" to {form.text(check.held)}"
    elif by_bound and check.interval:
        value += f" to {form.text(check.interval.high if form.sign == '≤' else check.interval.low)}"
    return CheckRow(form.name, value, f"{form.sign} {limit}", sign + margin, "pass" if check.passed else "FAIL")


def _interval_note(check: Check) -> str:
    form, interval = _form_of(check), check.interval
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


def _form_of(check: Check) -> _CheckForm:
    """Return how a check is shown, in the words of the metric that it is of."""
    form = _form(check.name)
    return form._replace(name=check.label or form.name, text=form.text if check.share else plain)


def _form(name: str) -> _CheckForm:
    """Return how a check is shown; a check of another version of edcompress by its name."""
    if found := find_limit(name):
        limit, sign = found
        return _CheckForm(limit.label, limit.text, sign)
    return _WITHOUT_LIMIT.get(name, _CheckForm(name, tiny, "≤"))
