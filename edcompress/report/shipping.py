"""Which of a run's files to ship: the fastest one inside the gate's limits."""

from __future__ import annotations

from edcompress.delivery import Gate
from edcompress.errors import InputError
from edcompress.measures import ModelResult
from edcompress.report.checks import check_rows
from edcompress.report.figures import FIGURES
from edcompress.report.verdict import judge
from edcompress.report.wording import milliseconds
from edcompress.results import Report, Shipping

PLAIN = "pruned.onnx"


def recommend(report: Report, limits: Gate) -> Shipping:
    """The file of an exported run to ship, and why: a variant only where it is inside the limits and faster than pruned.onnx.

    Limits that cannot be held, of a figure that was not measured, are no error but the reason to ship nothing.
    """
    plain = _p50(report.pruned)
    try:
        failed = _failing_of(report, limits)
        failing = {name: _failing(report, variant.measured, limits) for name, variant in report.variants.items()}
    except InputError as error:
        return Shipping(file=None, why=f"the gate's limits cannot be held: {error}")
    passing = [report.variants[name] for name, failed in failing.items() if not failed]
    faster = [variant for variant in passing if _p50(variant.measured) < plain]
    if faster:
        best = min(faster, key=lambda variant: _p50(variant.measured))
        times = plain / _p50(best.measured)
        return Shipping(file=best.file, why=f"inside the gate's limits and {times:.2f}x as fast as {PLAIN}")
    if failed:
        return Shipping(file=None, why=f"no file is inside the gate's limits; {PLAIN} fails {failed}")
    others = [
        f"{variant.file} fails {failing[name]}"
        if failing[name]
        else f"{variant.file} is not faster ({milliseconds(_p50(variant.measured))}, not below {milliseconds(plain)})"
        for name, variant in report.variants.items()
    ]
    return Shipping(file=PLAIN, why="; ".join(["inside the gate's limits", *others]))


def _failing(report: Report, measured: ModelResult, limits: Gate) -> str:
    """The limits that a variant fails, "" for none; a variant is not equal to PyTorch's network, so parity is none of them."""
    return _failing_of(report.model_copy(update={"pruned": measured}), limits.model_copy(update={"max_parity": None}))


def _failing_of(report: Report, limits: Gate) -> str:
    if all(getattr(limits, key) is None for key in FIGURES):
        return ""
    rows = check_rows(judge(report, limits))
    return ", ".join(f"{row.name} ({row.value}, limit {row.limit})" for row in rows if row.answer == "FAIL")


def _p50(measured: ModelResult) -> float:
    assert measured.latency_ms is not None, "only an exported run is shipped"
    return measured.latency_ms.p50
