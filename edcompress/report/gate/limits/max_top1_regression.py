"""Gate limit beside a baseline: the baseline's pruned top-1 minus this run's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, decimal, share
from edcompress.report.gate.limit import RegressionLimit
from edcompress.report.gate.regressions import of_both
from edcompress.report.render.formatting import percentage_points

if TYPE_CHECKING:
    from edcompress.core.results.report import Report


def figure(report: Report, baseline: Report) -> Figure | str:
    """Return the baseline's pruned top-1 minus this run's, both of the ONNX files; of images without a class their metric's."""
    if report.pruned.accuracy is None:
        return _of_the_metric(report, baseline)
    now, before = of_both(report, baseline, lambda one: one.pruned.onnx_accuracy, "accuracy of its ONNX file")
    return Figure(share(before.top1) - share(now.top1))


def _of_the_metric(report: Report, baseline: Report) -> Figure | str:
    if report.metric != baseline.metric:
        return f"the baseline's metric is {baseline.metric.label}, this run's {report.metric.label}"
    label = f"{report.metric.label} regression"
    now, before = of_both(
        report, baseline, lambda one: one.pruned.onnx_score, f"{report.metric.label} of its ONNX file"
    )
    return Figure(decimal(before.value) - decimal(now.value), label=label, share=report.metric.share)


LIMIT = RegressionLimit(
    order=110,
    kind=Unit,
    default=0.01,
    description="gate --baseline: the baseline's pruned top-1 minus this run's; of images without a class the recipe's metric",
    label="top-1 regression",
    text=percentage_points,
    figure=figure,
)
