"""Gate limit: top-1 of pruned.onnx, whatever that of the dense network is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, measured, not_counted, share
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure | str:
    """Return top-1 of pruned.onnx, or why there is none."""
    if why := not_counted(report):
        return why
    return Figure(share(measured(report.pruned.onnx_accuracy, "accuracy of the ONNX files").top1))


LIMIT = RunLimit(
    order=10,
    kind=Unit,
    description="top-1 of pruned.onnx, whatever the dense network's is",
    label="top-1",
    text=percentage,
    figure=figure,
)
