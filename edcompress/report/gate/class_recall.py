"""Accuracy class by class: the class that loses most, and classes that a file no longer gives to any image."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from edcompress.core.plain_text import few
from edcompress.core.results.measures import Count, ModelResult

if TYPE_CHECKING:  # report.py imports the gate's section, which reads the limits, which import this module
    from edcompress.core.results.report import Report

MOST_NAMED = 5
"""Most classes that a sentence names."""


class ClassDrop(NamedTuple):
    """A class, and how many of its test images the dense and the other file classify correctly."""

    name: str
    dense: Count
    other: Count

    @property
    def drop(self) -> Fraction:
        """Dense minus other recall."""
        return Fraction(self.dense.correct - self.other.correct, self.dense.total)


def worst_class(report: Report, model: ModelResult) -> ClassDrop | None:
    """Return the class whose recall drops most, and of equals the one with most images; None if recalls were not measured.

    Classes without test images have no recall; all others count, however few their images are.
    """
    dense, other = report.dense.recalls, model.recalls
    if dense is None or other is None:
        return None
    counts = zip(report.classes, dense.images, dense.right, other.right, strict=True)
    drops = [
        ClassDrop(name, Count(correct=before, total=images), Count(correct=now, total=images))
        for name, images, before, now in counts
        if images
    ]
    return max(drops, key=lambda found: (found.drop, found.dense.total), default=None)


def lost_classes(report: Report, model: ModelResult) -> list[str]:
    """Return the classes that dense.onnx gives to some of the test images, and this file to none."""
    dense, other = report.dense.recalls, model.recalls
    if dense is None or other is None:
        return []
    return [
        name for name, before, now in zip(report.classes, dense.given, other.given, strict=True) if before and not now
    ]


def class_alarms(report: Report) -> Iterator[str]:
    """Yield a warning about each file of the run that has lost classes."""
    files = {"pruned.onnx": report.pruned, **{one.file: one.measured for one in report.variants.values()}}
    for file, model in files.items():
        if lost := lost_classes(report, model):
            yield (
                f"{file} gives none of the test images the class {few(lost, MOST_NAMED)}, which dense.onnx gives to some: "
                "prune less, fine-tune longer, or limit it with gate.max_class_drop"
            )
