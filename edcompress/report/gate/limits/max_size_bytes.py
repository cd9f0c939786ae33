"""Gate limit: bytes of pruned.onnx."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import PositiveInteger
from edcompress.report.gate.figures import Figure, measured
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import exact_bytes

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure:
    """Return the bytes of pruned.onnx."""
    return Figure(Fraction(measured(report.pruned.size.onnx_bytes, "ONNX file")))


LIMIT = RunLimit(
    order=90,
    kind=PositiveInteger,
    description="bytes of pruned.onnx",
    label="ONNX size",
    text=exact_bytes,
    figure=figure,
)
