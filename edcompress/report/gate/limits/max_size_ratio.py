"""Gate limit: pruned over dense bytes of the ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.frozen import Fraction
from edcompress.report.gate.figures import Figure, measured, ratio
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure:
    """Return pruned over dense bytes of the ONNX files."""
    dense, pruned = (measured(model.size.onnx_bytes, "ONNX file") for model in (report.dense, report.pruned))
    return Figure(ratio(pruned, dense))


LIMIT = RunLimit(
    order=80,
    kind=Fraction,
    description="pruned over dense bytes of the ONNX files",
    label="size ratio",
    text=percentage,
    figure=figure,
)
