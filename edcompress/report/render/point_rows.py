"""Several networks side by side as rows of short texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edcompress.core.results.report import Point
from edcompress.core.results.scores import TOP1, MetricInfo
from edcompress.report.render.formatting import MISSING, change_text, headline_text, milliseconds

POINT_HEADINGS = ("", "MACs", "params", "p50", "speed-up", "top-1", "test", "held out", "gate", "which")
"""Headings of `PointRow` for top-1, in whose place the metric's name stands; `test` and `held out` are its changes on those images."""


class PointRow(NamedTuple):
    """One of several networks of one dense network."""

    name: str
    macs: str
    params: str
    p50: str
    speedup: str
    metric: str
    change: str
    judged: str
    gate: str
    which: str


def point_columns(
    found: Sequence[Point], left_out: Sequence[str] = (), metric: MetricInfo = TOP1
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of points, without the columns `left_out` and empty ones."""
    rows = [_point_row(point, metric) for point in found]
    empty = [all(cell in ("", MISSING) for cell in column) for column in zip(*rows, strict=True)]
    kept = [column for column, name in enumerate(POINT_HEADINGS) if name not in left_out and not empty[column]]
    headings = [metric.label if name == TOP1.label else name for name in POINT_HEADINGS]
    return [headings[column] for column in kept], [[row[column] for column in kept] for row in rows]


def point_doubts(found: Sequence[Point]) -> list[str]:
    """Return what is wrong with the times of points, each with the names of the points."""
    causes = dict.fromkeys(point.distrusted for point in found if point.distrusted)
    named = {cause: ", ".join(point.name for point in found if point.distrusted == cause) for cause in causes}
    return [f"{names}: {cause}: speed-ups and front are not to be trusted" for cause, names in named.items()]


def _point_row(point: Point, metric: MetricInfo) -> PointRow:
    judged = MISSING if point.judged_drop is None else change_text(-point.judged_drop, metric)
    return PointRow(
        point.name, f"{point.macs:.1%}", f"{point.params:.1%}", milliseconds(point.p50_ms), f"{point.speedup:.2f}x",
        headline_text(point.headline, metric), change_text(-point.drop, metric), judged,
        "" if point.passed is None else "pass" if point.passed else "FAIL",
        "chosen" if point.chosen else "front" if point.front else "")  # fmt: skip
