"""Gate limit beside a baseline: by what share pruned.onnx is slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import NonNegative
from edcompress.report.gate.figures import Figure
from edcompress.report.gate.limit import RegressionLimit
from edcompress.report.gate.regressions import growth, of_both
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.results.measures import Environment, Latency
    from edcompress.core.results.report import Report


def figure(report: Report, baseline: Report) -> Figure | str:
    """Return by what share pruned.onnx is slower than the baseline's (p50), or why the two times cannot be compared."""
    now, before = of_both(report, baseline, lambda one: one.pruned.latency_ms, "latency")
    here, there = of_both(report, baseline, _environment, "record of its machine")
    differing = [
        f"{name} {one}, here {other}"
        for (name, one), other in zip(_setting(there, before).items(), _setting(here, now).values(), strict=True)
        if one != other
    ]
    return f"the baseline was measured with {'; '.join(differing)}" if differing else growth(now.p50, before.p50)


def _environment(report: Report) -> Environment | None:
    return report.pruned.latency_ms.environment if report.pruned.latency_ms else None


def _setting(environment: Environment, latency: Latency) -> dict[str, str | int | None]:
    """Return what two latencies must have in common to be compared."""
    return {
        "processor": environment.processor,
        "governor": environment.governor,
        "onnxruntime": environment.onnxruntime,
        "provider": latency.provider,
        "batch size": latency.batch_size,
        "threads": latency.threads,
    }


LIMIT = RegressionLimit(
    order=120,
    kind=NonNegative,
    default=0.1,
    description="gate --baseline: by what share pruned.onnx may be slower than the baseline's",
    label="latency regression",
    text=percentage,
    timed=True,
    figure=figure,
)
