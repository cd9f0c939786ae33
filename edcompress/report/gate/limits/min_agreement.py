"""Gate limit: share of the test images to which both ONNX files give the same class."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from edcompress.core.frozen import Unit
from edcompress.report.gate.figures import Figure, measured, not_counted, require_images
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure | str:
    """Return the share of the test images to which both ONNX files give the same class, or why there is none."""
    if why := not_counted(report):
        return why
    paired = measured(report.pruned.paired, "accuracy of the ONNX files")
    require_images(paired.top1.total)
    return Figure(Fraction(paired.same_class, paired.top1.total))


LIMIT = RunLimit(
    order=50,
    kind=Unit,
    description="share of the test images to which both ONNX files give the same class",
    label="agreement",
    text=percentage,
    figure=figure,
)
