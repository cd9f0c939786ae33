"""Gate limit: dense minus pruned top-1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, accuracy_drop, not_counted
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage_points

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, gate: Gate) -> Figure | str:
    """Return dense minus pruned top-1 of the ONNX files, or why there is none."""
    return not_counted(report) or accuracy_drop(report, "top1", gate.level)


LIMIT = RunLimit(
    order=20,
    kind=Unit,
    default=0.01,
    description="dense minus pruned top-1, absolute",
    label="top-1 drop",
    text=percentage_points,
    figure=figure,
)
