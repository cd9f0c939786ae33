"""Figures that the gate compares with limits, in exact arithmetic: 0.01 is 1/100, and a share of images is a fraction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeVar

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Count, Interval, Pairs
from edcompress.report.gate.paired_statistics import drop_interval, mcnemar_p

if TYPE_CHECKING:  # report.py imports the gate's section, which reads the limits, which import this module
    from edcompress.core.results.report import Report

T = TypeVar("T")

NO_IMAGES = "the report's accuracies are over 0 images; run `edcompress prune` with test images"


class NotMeasuredError(Exception):
    """A report lacks `what` a limit needs."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Figure:
    """A value, None if it is not a number, and what is known of its uncertainty.

    `label` names the figure where it is of the recipe's metric, and `share` says whether that is one in [0, 1].
    """

    value: Fraction | None
    interval: Interval | None = None
    pairs: Pairs | None = None
    p_value: float | None = None
    note: str = ""
    label: str = ""
    share: bool = True


def measured(value: T | None, what: str) -> T:
    """Return the value, or raise NotMeasuredError if it is None."""
    if value is None:
        raise NotMeasuredError(what)
    return value


def accuracy_drop(report: Report, kind: Literal["top1", "top5"], level: float) -> Figure:
    """Return dense minus pruned accuracy of the ONNX files, with its interval at a confidence level."""
    pairs: Pairs = getattr(measured(report.pruned.paired, "accuracy of the ONNX files"), kind)
    require_images(pairs.total)
    value = Fraction(pairs.dense_only - pairs.other_only, pairs.total)
    return Figure(value, drop_interval(pairs, level), pairs, mcnemar_p(pairs))


def metric_drop(report: Report, level: float) -> Figure:
    """Return dense minus pruned metric of the ONNX files, with its interval: Tango's for counts of images, else by bootstrap."""
    metric = report.metric
    label = f"{metric.label} drop"
    if metric.name in ("top1", "top5"):
        return replace(accuracy_drop(report, "top1" if metric.name == "top1" else "top5", level), label=label)
    drop = measured(report.pruned.score_drop, f"{metric.label} of the ONNX files")
    note = "" if drop.quantiles else "no interval: the metric has no value on most samples of the test images"
    return Figure(finite_decimal(drop.value), drop.interval(level), note=note, label=label, share=metric.share)


def not_counted(report: Report) -> str:
    """Return why a report has no accuracy, or "" if it has one."""
    if report.pruned.accuracy is not None:
        return ""
    return f"the images have no single class each, and the metric is {report.metric.label}: limit it with gate.max_drop"


def share(count: Count) -> Fraction:
    """Return the share of correct images; InputError if there are no images."""
    require_images(count.total)
    return Fraction(count.correct, count.total)


def require_images(total: int) -> None:
    """Raise InputError if an accuracy is over no images."""
    if total <= 0:
        raise InputError(NO_IMAGES)


def decimal(value: float) -> Fraction:
    """Return the decimal number that people read: 0.01 is 1/100, not the binary fraction next to it."""
    return Fraction(str(value))


def finite_decimal(value: float) -> Fraction | None:
    """Return the decimal number, or None if the value is infinite or NaN."""
    return decimal(value) if math.isfinite(value) else None


def ratio(above: float, below: float) -> Fraction | None:
    """Return above / below, or None unless both are finite and positive."""
    usable = all(math.isfinite(value) and value > 0 for value in (above, below))
    return decimal(above) / decimal(below) if usable else None
