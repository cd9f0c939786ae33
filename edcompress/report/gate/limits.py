"""What of a report is held against the gate's limits, in exact arithmetic: 0.01 is 1/100, and a share of images is a fraction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import Gate
from edcompress.core.results.measures import Interval, Latency, Paired, Pairs
from edcompress.core.results.report import Report
from edcompress.report.gate.class_recall import worst_class
from edcompress.report.gate.paired_statistics import drop_interval, mcnemar_p

NOT_MEASURED = (
    "there is no {what} yet to hold against {limit}; run `edcompress export --onnx` first "
    "(again, where an earlier version exported)"
)
NO_IMAGES = "the report's accuracies are over 0 images; run `edcompress prune` with test images"


@dataclass(frozen=True)
class Figure:
    """A value, None where it is no number, and what is known of how sure it is."""

    value: Fraction | None
    interval: Interval | None = None
    pairs: Pairs | None = None
    p_value: float | None = None
    note: str = ""


def top1(report: Report) -> Figure:
    """Top-1 of pruned.onnx."""
    found = report.pruned.onnx_accuracy
    if found is None:
        raise InputError(NOT_MEASURED.format(what="accuracy of the ONNX files", limit="min_top1"))
    if found.top1.total == 0:
        raise InputError(NO_IMAGES)
    return Figure(Fraction(found.top1.correct, found.top1.total))


def drop(report: Report, kind: Literal["top1", "top5"], level: float) -> Figure:
    """Dense minus pruned accuracy of the ONNX files."""
    pairs: Pairs = getattr(_paired(report, f"max_{kind}_drop"), kind)
    value = Fraction(pairs.dense_only - pairs.other_only, pairs.total)
    return Figure(value, drop_interval(pairs, level), pairs, mcnemar_p(pairs))


def top5_drop(report: Report, level: float) -> Figure | str:
    """`drop` of top-5, or why there is none."""
    return report.top5_without_use or drop(report, "top5", level)


def class_drop(report: Report) -> Figure:
    """Dense minus pruned recall of the class that loses most."""
    found = worst_class(report, report.pruned)
    if found is None:
        raise InputError(NOT_MEASURED.format(what="accuracy by class", limit="max_class_drop"))
    dense, other, images = found.dense.correct, found.other.correct, found.dense.total
    return Figure(
        found.drop,
        note=f"the class is {found.name}: of its {images} images dense.onnx has {dense} right, pruned.onnx {other}",
    )


def agreement(report: Report) -> Figure:
    """Share of the test images to which both ONNX files give the same class."""
    paired = _paired(report, "min_agreement")
    return Figure(Fraction(paired.same_class, paired.top1.total))


def speedup(report: Report, limits: Gate) -> Figure:
    """Dense over pruned p50 latency; with its interval where there is one, which limits by bounds need."""
    dense, pruned = (_latency(model.latency_ms, "min_speedup") for model in (report.dense, report.pruned))
    interval = report.speedup
    if limits.confidence == "bound":
        if interval is None:
            raise InputError(NOT_MEASURED.format(what="interval of the speed-up", limit="min_speedup by its bound"))
        if interval.confidence != limits.level:
            raise InputError(
                f"gate.level is {limits.level:g}, but the speed-up's interval was measured at {interval.confidence:g}; "
                f"give --level {interval.confidence:g}"
            )
    return Figure(ratio(dense.p50, pruned.p50), interval)


def least_speedup(report: Report) -> Fraction | None:
    """The speed-up that is left where all the waiting was dense.onnx's: with s = D / P and the share w lost, (D - w (D + P)) / P."""
    times = report.headline_latencies
    found = ratio(*(latency.p50 for latency in times)) if len(times) == 2 else None
    lost = decimal(max((latency.lost for latency in times), default=0.0))
    return None if found is None else found - lost * (found + 1)


def latency(report: Report) -> Figure:
    """p50 latency of pruned.onnx in milliseconds."""
    p50 = _latency(report.pruned.latency_ms, "max_latency_ms").p50
    return Figure(decimal(p50) if math.isfinite(p50) else None)


def size_ratio(report: Report) -> Figure:
    """Pruned over dense bytes of the ONNX files."""
    dense, pruned = (_bytes(model.size.onnx_bytes, "max_size_ratio") for model in (report.dense, report.pruned))
    return Figure(ratio(pruned, dense))


def parity(report: Report) -> Figure:
    """Largest logit difference of pruned.onnx and PyTorch, relative to their scale."""
    proof = report.proof.pruned_vs_onnx
    if proof is None:
        raise InputError(NOT_MEASURED.format(what="ONNX file", limit="max_parity"))
    finite = math.isfinite(proof.scale) and math.isfinite(proof.relative)
    return Figure(decimal(proof.relative) if finite else None)


FIGURES: Mapping[str, Callable[[Report, Gate], Figure | str]] = {
    "min_top1": lambda report, _: top1(report),
    "max_top1_drop": lambda report, limits: drop(report, "top1", limits.level),
    "max_top5_drop": lambda report, limits: top5_drop(report, limits.level),
    "max_class_drop": lambda report, _: class_drop(report),
    "min_agreement": lambda report, _: agreement(report),
    "min_speedup": speedup,
    "max_latency_ms": lambda report, _: latency(report),
    "max_size_ratio": lambda report, _: size_ratio(report),
    "max_size_bytes": lambda report, _: Figure(Fraction(_bytes(report.pruned.size.onnx_bytes, "max_size_bytes"))),
    "max_parity": lambda report, _: parity(report),
}
"""The figure of each limit on a run alone, or why it has none; they raise InputError for what has not been measured yet."""


def decimal(value: float) -> Fraction:
    """The decimal number that people read: 0.01 is 1/100, not the binary fraction next to it."""
    return Fraction(str(value))


def ratio(above: float, below: float) -> Fraction | None:
    """above / below; None unless both are finite and positive."""
    usable = all(math.isfinite(value) and value > 0 for value in (above, below))
    return decimal(above) / decimal(below) if usable else None


def _latency(measured: Latency | None, limit: str) -> Latency:
    """The latency, or InputError where it was not measured."""
    if measured is None:
        raise InputError(NOT_MEASURED.format(what="latency", limit=limit))
    return measured


def _bytes(measured: int | None, limit: str) -> int:
    """The bytes of an ONNX file, or InputError where there is none."""
    if measured is None:
        raise InputError(NOT_MEASURED.format(what="ONNX file", limit=limit))
    return measured


def _paired(report: Report, limit: str) -> Paired:
    paired = report.pruned.paired
    if paired is None:
        raise InputError(NOT_MEASURED.format(what="accuracy of the ONNX files", limit=limit))
    if min(paired.top1.total, paired.top5.total) == 0:
        raise InputError(NO_IMAGES)
    return paired
