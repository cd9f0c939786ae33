"""Several networks side by side as rows of short texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edcompress.core.results.report import Point
from edcompress.report.render.formatting import MISSING, milliseconds, percent, points

POINT_HEADINGS = ("", "MACs", "params", "p50", "speed-up", "top-1", "test", "held out", "gate", "which")
"""Headings of `PointRow`; `test` and `held out` are the changes of top-1 on those images."""


class PointRow(NamedTuple):
    """One of several networks of one dense network."""

    name: str
    macs: str
    params: str
    p50: str
    speedup: str
    top1: str
    change: str
    judged: str
    gate: str
    which: str


def point_columns(found: Sequence[Point], left_out: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of points, without the columns `left_out` and empty ones."""
    rows = [_point_row(point) for point in found]
    empty = [all(cell in ("", MISSING) for cell in column) for column in zip(*rows, strict=True)]
    kept = [column for column, name in enumerate(POINT_HEADINGS) if name not in left_out and not empty[column]]
    return [POINT_HEADINGS[column] for column in kept], [[row[column] for column in kept] for row in rows]


def point_doubts(found: Sequence[Point]) -> list[str]:
    """Return what is wrong with the times of points, each with the names of the points."""
    causes = dict.fromkeys(point.distrusted for point in found if point.distrusted)
    named = {cause: ", ".join(point.name for point in found if point.distrusted == cause) for cause in causes}
    return [f"{names}: {cause}: speed-ups and front are not to be trusted" for cause, names in named.items()]


def _point_row(point: Point) -> PointRow:
    return PointRow(
        point.name, f"{point.macs:.1%}", f"{point.params:.1%}", milliseconds(point.p50_ms), f"{point.speedup:.2f}x",
        percent(point.top1), points(-point.top1_drop), MISSING if point.judged_drop is None else points(-point.judged_drop),
        "" if point.passed is None else "pass" if point.passed else "FAIL",
        "chosen" if point.chosen else "front" if point.front else "")  # fmt: skip
