"""Which of a run's files to ship: the fastest one inside the gate's limits."""

from __future__ import annotations

from edcompress.core.errors import InputError
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.measures import Latency, ModelResult
from edcompress.core.results.report import Report, Shipping
from edcompress.core.results.verdict import Verdict
from edcompress.report.gate.limit_registry import RUN_LIMITS
from edcompress.report.gate.noise import waiting_and_fix
from edcompress.report.gate.sanity import chance_checks
from edcompress.report.gate.verdict import judge
from edcompress.report.render.verdict_rows import check_rows

PLAIN = "pruned.onnx"


def recommend(report: Report, gate: Gate) -> Shipping:
    """Return the file of an exported run to ship, and why.

    A variant is shipped only if it is inside the limits and surely faster than pruned.onnx, that is, if its speed-up over dense.onnx is
    above the interval of pruned.onnx's; or if pruned.onnx is outside the limits. Times that are not to be trusted choose no file: then it
    is pruned.onnx or none, unless the gate allows them. Limits on figures that were not measured are not an error but the reason to ship
    nothing.
    """
    try:
        failed = _failed_limits(report, gate)
        failures = {one.file: _failed_by(one.measured, report, gate) for one in report.variants.values()}
    except InputError as error:
        return Shipping(file=None, why=f"the gate's limits cannot be checked: {error}")
    if report.variants and gate.disturbed != "allow" and (cause := waiting_and_fix(_first_latencies(report))):
        return _without_times(failed, cause)
    passing = [variant for variant in report.variants.values() if not failures[variant.file]]
    best = max(passing, key=lambda variant: _speedup(report, variant.measured), default=None)
    if best and _speedup(report, best.measured) > _largest_speedup(report):
        faster = _speedup(report, best.measured) / _speedup(report, report.pruned)
        return Shipping(file=best.file, why=f"inside the gate's limits and {faster:.2f}x as fast as {PLAIN}")
    if best and failed:
        return Shipping(file=best.file, why=f"inside the gate's limits; {PLAIN} fails {failed}")
    if failed:
        return Shipping(file=None, why=f"no file is inside the gate's limits; {PLAIN} fails {failed}")
    return Shipping(file=PLAIN, why="; ".join(["inside the gate's limits", *_why_not(report, failures)]))


def _why_not(report: Report, failures: dict[str, str]) -> list[str]:
    """Return why each variant is not shipped."""
    return [
        f"{variant.file} fails {failures[variant.file]}"
        if failures[variant.file]
        else f"{variant.file} is not surely faster ({_speedup(report, variant.measured):.2f}x, {PLAIN} up to "
        f"{_largest_speedup(report):.2f}x)"
        for variant in report.variants.values()
    ]


def _without_times(failed: str, cause: str) -> Shipping:
    """Return pruned.onnx if it fails no limit, else nothing."""
    reason = f"the times of the files are not compared, because {cause}"
    if failed:
        return Shipping(file=None, why=f"{PLAIN} fails {failed}, and {reason}")
    return Shipping(file=PLAIN, why=f"inside the gate's limits; {reason}")


def _failed_by(measured: ModelResult, report: Report, gate: Gate) -> str:
    """Return the limits that a variant fails, "" for none."""
    gate = gate.without(*(key for key, limit in RUN_LIMITS.items() if not limit.of_variants))
    return _failed_limits(report.model_copy(update={"pruned": measured}), gate)


def _failed_limits(report: Report, gate: Gate) -> str:
    if RUN_LIMITS.keys() & gate.limits.keys():
        rows = check_rows(judge(report, gate))
    else:
        checks = chance_checks(report, gate)
        rows = check_rows(Verdict(passed=not checks, checks=checks))
    return ", ".join(f"{row.name} ({row.value}, limit {row.limit})" for row in rows if row.answer == "FAIL")


def _first_latencies(report: Report) -> list[Latency]:
    measured = (report.pruned, *(variant.measured for variant in report.variants.values()))
    return [model.latency_ms for model in measured if model.latency_ms]


def _largest_speedup(report: Report) -> float:
    """Return the upper end of pruned.onnx's speed-up, or the speed-up itself if it has no interval."""
    return report.speedup.high if report.speedup else _speedup(report, report.pruned)


def _speedup(report: Report, measured: ModelResult) -> float:
    """Return the speed-up over dense.onnx, by the medians."""
    dense, other = report.dense.latency_ms, measured.latency_ms
    assert dense  # only an exported run is shipped
    assert other  # all files of an export are measured
    return dense.p50 / other.p50
