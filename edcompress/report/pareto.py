"""Several networks of one dense network, side by side; the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from edcompress.core.results.report import Point, Report
from edcompress.core.results.scores import TOP1, value_of


def point_of(report: Report, name: str, dense_ms: float, pruned_ms: float) -> Point:
    """Return the point of a finished run in a comparison.

    Args:
        report: The run's report.
        name: The name of the run's folder.
        dense_ms: The dense network's median latency, of calls interleaved with those of the pruned network.
        pruned_ms: The pruned network's median latency.
    """
    dense, pruned, metric = report.dense, report.pruned, report.metric
    top1 = pruned.accuracy.top1 if pruned.accuracy else None
    before = dense.accuracy.top1 if dense.accuracy else None
    own = None if metric == TOP1 else (dense.headline(metric), pruned.headline(metric))
    return Point(
        name=name,
        macs=pruned.size.macs / dense.size.macs,
        params=pruned.size.params / dense.size.params,
        p50_ms=pruned_ms,
        speedup=dense_ms / pruned_ms,
        top1=top1,
        top1_drop=before.fraction - top1.fraction if before and top1 else None,
        score=own and own[1],
        score_drop=own and value_of(own[0]) - value_of(own[1]),
    )


def with_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points, smallest first, with those on the Pareto front marked, which no other point beats.

    Speed-ups are compared, not times: each speed-up is of interleaved calls, while the machine's speed may differ between two runs.
    """
    ordered = sorted(points, key=lambda point: (point.macs, point.name))
    return tuple(
        point.model_copy(update={"front": not any(_beats(other, point) for other in points)}) for point in ordered
    )


def _beats(one: Point, other: Point) -> bool:
    """Return whether `one` is nowhere worse than `other`, and somewhere better."""
    ours, theirs = (one.speedup, -one.drop), (other.speedup, -other.drop)
    return ours != theirs and all(mine >= its for mine, its in zip(ours, theirs, strict=True))
