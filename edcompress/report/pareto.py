"""Several networks of one dense network, side by side, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Sequence

from edcompress.core.results.report import Point, Report


def point_of(report: Report, name: str, dense_ms: float, pruned_ms: float) -> Point:
    """What a finished run, in a folder called `name`, adds to a comparison; the medians are of interleaved calls."""
    dense, pruned = report.dense, report.pruned
    return Point(
        name=name,
        macs=pruned.size.macs / dense.size.macs,
        params=pruned.size.params / dense.size.params,
        p50_ms=pruned_ms,
        speedup=dense_ms / pruned_ms,
        top1=pruned.accuracy.top1,
        top1_drop=dense.accuracy.top1.fraction - pruned.accuracy.top1.fraction,
    )


def with_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, smallest first, those on the front marked: no other has a larger speed-up and no larger drop, or as large and less.

    Speed-ups are compared, not times: each is of interleaved calls, while two runs may have met two moods of the machine.
    """
    ordered = sorted(points, key=lambda point: (point.macs, point.name))
    return tuple(
        point.model_copy(update={"front": not any(_beats(other, point) for other in points)}) for point in ordered
    )


def _beats(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere worse than `other`, and somewhere better."""
    ours, theirs = (one.speedup, -one.top1_drop), (other.speedup, -other.top1_drop)
    return ours != theirs and all(mine >= its for mine, its in zip(ours, theirs, strict=True))
