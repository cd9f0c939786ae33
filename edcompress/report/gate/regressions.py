"""A run compared with an earlier one, the baseline, such as main's: whether the two can be compared, and figures of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from edcompress.core.errors import InputError
from edcompress.report.gate.figures import Figure, ratio

if TYPE_CHECKING:  # report.py imports the gate's section, which reads the limits, which import this module
    from edcompress.core.results.report import Images, Report

T = TypeVar("T")


def require_comparable(report: Report, baseline: Report) -> tuple[str, ...]:
    """Check that both runs were measured on the same test images, prepared alike, and return what to note about the comparison.

    Pixels and preprocessing are not compared where an earlier version did not record them.

    Raises:
        InputError: The test images differ, or one of the runs has no record of them.
    """
    now, before = of_both(report, baseline, lambda one: one.tested_on, "record of its test images")
    if differing := _differing(now, before):
        raise InputError(
            f"the baseline was tested on {_described(before)}, this run on {_described(now)}: {', '.join(differing)} differ; compare runs "
            "with the same test images, prepared alike (after an intended change, make a new baseline)"
        )
    return tuple(_notes(report, baseline))


def of_both(report: Report, baseline: Report, find: Callable[[Report], T | None], what: str) -> tuple[T, T]:
    """Return what `find` returns for this run and for the baseline; InputError if it is None for one of them."""
    return _found(find(report), "this run", what), _found(find(baseline), "the baseline", what)


def growth(now: float, before: float) -> Figure:
    """Return now / before - 1."""
    share = ratio(now, before)
    return Figure(None if share is None else share - 1)


def _differing(now: Images, before: Images) -> list[str]:
    """Return the names of what differs between two sets of test images."""
    names = {"dataset": "data sets", "count": "counts", "labels_sha256": "labels", "pixels_sha256": "pixels"}
    pairs = {name: (getattr(now, key), getattr(before, key)) for key, name in names.items()}
    if None in pairs["pixels"]:
        del pairs["pixels"]
    if now.preprocessing and before.preprocessing:
        theirs = before.preprocessing.model_dump()
        pairs |= {f"preprocessing.{key}": (value, theirs[key]) for key, value in now.preprocessing.model_dump().items()}
    return [name for name, (one, other) in pairs.items() if one != other]


def _notes(report: Report, baseline: Report) -> Iterator[str]:
    runs = (("this run", report), ("the baseline", baseline))
    unknown = [whose for whose, one in runs if one.tested_on and one.tested_on.pixels_sha256 is None]
    if unknown:
        yield (
            f"the test images are compared by their labels alone, because an earlier version exported {' and '.join(unknown)}; export "
            "again to compare the images themselves"
        )
    if report.network != baseline.network:
        yield f"the baseline is of a different network: {baseline.network}; this run's is {report.network}"


def _found(value: T | None, whose: str, what: str) -> T:
    if value is None:
        raise InputError(
            f"{whose} has no {what}; run `edcompress export --onnx` on it first (again, if an earlier version exported it)"
        )
    return value


def _described(images: Images) -> str:
    pixels = f", pixels {images.pixels_sha256}" if images.pixels_sha256 else ""
    return f"{images.count} images of {images.dataset} (labels {images.labels_sha256}{pixels})"
