"""Gate limit beside a baseline: the baseline's pruned top-1 minus this run's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, share
from edcompress.report.gate.limit import RegressionLimit
from edcompress.report.gate.regressions import of_both
from edcompress.report.render.formatting import percentage_points

if TYPE_CHECKING:
    from edcompress.core.results.report import Report


def figure(report: Report, baseline: Report) -> Figure:
    """Return the baseline's pruned top-1 minus this run's, both of the ONNX files."""
    now, before = of_both(report, baseline, lambda one: one.pruned.onnx_accuracy, "accuracy of its ONNX file")
    return Figure(share(before.top1) - share(now.top1))


LIMIT = RegressionLimit(
    order=110,
    kind=Unit,
    default=0.01,
    description="gate --baseline: the baseline's pruned top-1 minus this run's",
    label="top-1 regression",
    text=percentage_points,
    figure=figure,
)
