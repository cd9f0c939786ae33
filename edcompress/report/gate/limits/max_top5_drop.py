"""Gate limit: dense minus pruned top-5."""

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
    """Return dense minus pruned top-5 of the ONNX files, or why it says nothing: among five classes every image is right."""
    return not_counted(report) or report.top5_without_use or accuracy_drop(report, "top5", gate.level)


LIMIT = RunLimit(
    order=30,
    kind=Unit,
    description="dense minus pruned top-5, absolute",
    label="top-5 drop",
    text=percentage_points,
    figure=figure,
)
