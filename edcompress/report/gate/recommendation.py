"""Which of a run's files to ship: the fastest one inside the gate's limits."""

from __future__ import annotations

from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import Gate
from edcompress.core.results.measures import ModelResult
from edcompress.core.results.report import Report, Shipping
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.limits import FIGURES
from edcompress.report.gate.sanity import chance_checks
from edcompress.report.gate.verdict import judge
from edcompress.report.render.formatting import measure_again, waiting
from edcompress.report.render.verdict_rows import check_rows

PLAIN = "pruned.onnx"


def recommend(report: Report, limits: Gate) -> Shipping:
    """The file of an exported run to ship, and why: a variant only where it is inside the limits and surely faster than pruned.onnx,
    that is, where its speed-up over dense.onnx is above the interval of pruned.onnx's, or where pruned.onnx is not inside them.

    Times that are not to be trusted choose no file: then it is pruned.onnx or none, unless the gate allows them.
    Limits that cannot be held, of a figure that was not measured, are no error but the reason to ship nothing.
    """
    plain = report.speedup.high if report.speedup else _speedup(report, report.pruned)
    try:
        failed = _failing_of(report, limits)
        failing = {name: _failing(report, variant.measured, limits) for name, variant in report.variants.items()}
    except InputError as error:
        return Shipping(file=None, why=f"the gate's limits cannot be held: {error}")
    measured = (report.pruned, *(variant.measured for variant in report.variants.values()))
    times = tuple(model.latency_ms for model in measured if model.latency_ms)
    if report.variants and limits.disturbed != "allow" and (cause := waiting(times)):
        return _without_times(failed, f"{cause}; {measure_again(times)}")
    passing = [report.variants[name] for name, failed in failing.items() if not failed]
    best = max(passing, key=lambda variant: _speedup(report, variant.measured), default=None)
    if best and _speedup(report, best.measured) > plain:
        faster = _speedup(report, best.measured) / _speedup(report, report.pruned)
        return Shipping(file=best.file, why=f"inside the gate's limits and {faster:.2f}x as fast as {PLAIN}")
    if best and failed:
        return Shipping(file=best.file, why=f"inside the gate's limits; {PLAIN} fails {failed}")
    if failed:
        return Shipping(file=None, why=f"no file is inside the gate's limits; {PLAIN} fails {failed}")
    others = [
        f"{variant.file} fails {failing[name]}"
        if failing[name]
        else f"{variant.file} is not surely faster ({_speedup(report, variant.measured):.2f}x, {PLAIN} up to {plain:.2f}x)"
        for name, variant in report.variants.items()
    ]
    return Shipping(file=PLAIN, why="; ".join(["inside the gate's limits", *others]))


def _without_times(failed: str, cause: str) -> Shipping:
    """pruned.onnx where it fails nothing, else nothing."""
    untold = f"the files are not compared by their times, for {cause}"
    if failed:
        return Shipping(file=None, why=f"{PLAIN} fails {failed}, and {untold}")
    return Shipping(file=PLAIN, why=f"inside the gate's limits; {untold}")


def _failing(report: Report, measured: ModelResult, limits: Gate) -> str:
    """The limits that a variant fails, "" for none; a variant is not equal to PyTorch's network, so parity is none of them."""
    return _failing_of(report.model_copy(update={"pruned": measured}), limits.model_copy(update={"max_parity": None}))


def _failing_of(report: Report, limits: Gate) -> str:
    if all(getattr(limits, key) is None for key in FIGURES):
        checks = chance_checks(report, limits)
        rows = check_rows(Verdict(passed=not checks, checks=checks))
    else:
        rows = check_rows(judge(report, limits))
    return ", ".join(f"{row.name} ({row.value}, limit {row.limit})" for row in rows if row.answer == "FAIL")


def _speedup(report: Report, measured: ModelResult) -> float:
    """Over dense.onnx, by the medians."""
    dense, other = report.dense.latency_ms, measured.latency_ms
    assert dense, "only an exported run is shipped"
    assert other, "all files of an export are measured"
    return dense.p50 / other.p50
