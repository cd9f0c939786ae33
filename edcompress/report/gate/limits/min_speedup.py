"""Gate limit: dense over pruned p50 latency."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from edcompress.core.errors import InputError
from edcompress.core.recipe.limit_field import Positive
from edcompress.report.gate.figures import Figure, decimal, measured, ratio
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import factor

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.measures import Interval
    from edcompress.core.results.report import Report


def figure(report: Report, gate: Gate) -> Figure:
    """Return dense over pruned p50 latency, with its interval if one was measured."""
    dense, pruned = (measured(model.latency_ms, "latency") for model in (report.dense, report.pruned))
    if gate.confidence == "bound":
        _require_level(measured(report.speedup, "interval of the speed-up"), gate.level)
    return Figure(ratio(dense.p50, pruned.p50), report.speedup)


def least_speedup(report: Report) -> Fraction | None:
    """Return the speed-up if only dense.onnx waited for its cores: with s = D / P and the waiting's share w, (D - w (D + P)) / P."""
    times = report.headline_latencies
    found = ratio(*(latency.p50 for latency in times)) if len(times) == 2 else None
    lost = decimal(max((latency.lost for latency in times), default=0.0))
    return None if found is None else found - lost * (found + 1)


def _require_level(interval: Interval, level: float) -> None:
    if interval.confidence != level:
        raise InputError(
            f"gate.level is {level:g}, but the speed-up's interval was measured at {interval.confidence:g}; "
            f"give --level {interval.confidence:g}"
        )


LIMIT = RunLimit(
    order=60,
    kind=Positive,
    default=1.0,
    description="dense over pruned p50 latency",
    label="speedup",
    text=factor,
    timed=True,
    figure=figure,
    worst=least_speedup,
)
