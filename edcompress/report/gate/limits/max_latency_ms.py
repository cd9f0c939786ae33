"""Gate limit: p50 latency of pruned.onnx, in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import Positive
from edcompress.report.gate.figures import Figure, finite_decimal, measured
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import milliseconds

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure:
    """Return p50 latency of pruned.onnx in milliseconds."""
    return Figure(finite_decimal(measured(report.pruned.latency_ms, "latency").p50))


LIMIT = RunLimit(
    order=70,
    kind=Positive,
    description="p50 latency of pruned.onnx, in milliseconds",
    label="latency p50",
    text=milliseconds,
    timed=True,
    figure=figure,
)
