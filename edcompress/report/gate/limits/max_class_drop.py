"""Gate limit: dense minus pruned recall of the class that loses most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.class_recall import worst_class
from edcompress.report.gate.figures import Figure, measured, not_counted
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage_points

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure | str:
    """Return dense minus pruned recall of the class that loses most, with a note that names it, or why there is none."""
    if why := not_counted(report):
        return why
    found = measured(worst_class(report, report.pruned), "accuracy by class")
    dense, other, images = found.dense.correct, found.other.correct, found.dense.total
    return Figure(
        found.drop,
        note=f"the class is {found.name}: of its {images} images dense.onnx has {dense} right, pruned.onnx {other}",
    )


LIMIT = RunLimit(
    order=40,
    kind=Unit,
    description="dense minus pruned recall of the class that loses most, absolute; one image of a class of 20 is 0.05",
    label="class drop",
    text=percentage_points,
    figure=figure,
)
