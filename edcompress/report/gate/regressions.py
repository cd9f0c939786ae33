"""A run beside an earlier one, such as main's: by how much it is worse, and whether the two can be compared at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import TypeVar

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Count, Environment, Latency
from edcompress.core.results.report import Images, Report
from edcompress.report.gate.limits import Figure, ratio

T = TypeVar("T")


def require_comparable(report: Report, baseline: Report) -> tuple[str, ...]:
    """What to say of the comparison; InputError unless both runs were measured on the same test images, prepared alike.

    What an earlier version did not record, of pixels and preprocessing, is not compared.
    """
    now, before = _both(report, baseline, lambda one: one.tested_on, "record of its test images")
    if differing := _differing(now, before):
        raise InputError(
            f"the baseline was tested on {_words(before)}, this run on {_words(now)}: {', '.join(differing)} differ; compare runs of the "
            "same test images, prepared alike (a change that is meant needs a new baseline)"
        )
    return tuple(_notes(report, baseline))


def _differing(now: Images, before: Images) -> list[str]:
    """What of two sets of test images differs, by name."""
    names = {"dataset": "data sets", "count": "counts", "labels_sha256": "labels", "pixels_sha256": "pixels"}
    pairs = {name: (getattr(now, key), getattr(before, key)) for key, name in names.items()}
    if None in pairs["pixels"]:
        del pairs["pixels"]
    if now.preprocessing and before.preprocessing:
        theirs = before.preprocessing.model_dump()
        pairs |= {f"preprocessing.{key}": (value, theirs[key]) for key, value in now.preprocessing.model_dump().items()}
    return [name for name, (one, other) in pairs.items() if one != other]


def _notes(report: Report, baseline: Report) -> Iterator[str]:
    unknown = [
        whose
        for whose, one in (("this run", report), ("the baseline", baseline))
        if one.tested_on and one.tested_on.pixels_sha256 is None
    ]
    if unknown:
        yield (
            f"the test images are compared by their labels alone, as an earlier version exported {' and '.join(unknown)}; export again to "
            "compare the images themselves"
        )
    if report.network != baseline.network:
        yield f"the baseline is another network: {baseline.network}, this run's is {report.network}"


def top1_regression(report: Report, baseline: Report) -> Figure:
    """The baseline's pruned top-1 minus this one's, absolute; both of the ONNX files."""
    now, before = _both(report, baseline, lambda one: one.pruned.onnx_accuracy, "accuracy of its ONNX file")
    return Figure(_share(before.top1) - _share(now.top1))


def latency_regression(report: Report, baseline: Report) -> Figure | str:
    """By what share pruned.onnx is slower than the baseline's (p50); or why the two times cannot be compared."""
    now, before = _both(report, baseline, lambda one: one.pruned.latency_ms, "latency")
    here, there = _both(report, baseline, _environment, "record of its machine")
    differing = [
        f"{name} {one}, here {other}"
        for (name, one), other in zip(_setting(there, before).items(), _setting(here, now).values(), strict=True)
        if one != other
    ]
    return f"the baseline was measured with {'; '.join(differing)}" if differing else _growth(now.p50, before.p50)


def size_regression(report: Report, baseline: Report) -> Figure:
    """By what share pruned.onnx is larger than the baseline's."""
    return _growth(*_both(report, baseline, lambda one: one.pruned.size.onnx_bytes, "ONNX file"))


REGRESSIONS: Mapping[str, Callable[[Report, Report], Figure | str]] = {
    "max_top1_regression": top1_regression,
    "max_latency_regression": latency_regression,
    "max_size_regression": size_regression,
}
"""The figure of each limit on a run beside its baseline, or the reason why there is none."""


def _both(report: Report, baseline: Report, find: Callable[[Report], T | None], what: str) -> tuple[T, T]:
    """What `find` finds in this run and in the baseline; InputError where one of them has none."""
    return _found(find(report), "this run", what), _found(find(baseline), "the baseline", what)


def _found(value: T | None, whose: str, what: str) -> T:
    if value is None:
        raise InputError(
            f"{whose} has no {what}; run `edcompress export --onnx` on it first (again, where an earlier version exported)"
        )
    return value


def _share(count: Count) -> Fraction:
    if count.total <= 0:
        raise InputError("an accuracy is over 0 images; run `edcompress prune` with test images")
    return Fraction(count.correct, count.total)


def _words(images: Images) -> str:
    pixels = f", pixels {images.pixels_sha256}" if images.pixels_sha256 else ""
    return f"{images.count} images of {images.dataset} (labels {images.labels_sha256}{pixels})"


def _environment(report: Report) -> Environment | None:
    return report.pruned.latency_ms.environment if report.pruned.latency_ms else None


def _setting(environment: Environment, latency: Latency) -> dict[str, str | int | None]:
    """What two latencies must have in common to be compared."""
    return {
        "processor": environment.processor,
        "governor": environment.governor,
        "onnxruntime": environment.onnxruntime,
        "provider": latency.provider,
        "batch size": latency.batch_size,
        "threads": latency.threads,
    }


def _growth(now: float, before: float) -> Figure:
    share = ratio(now, before)
    return Figure(None if share is None else share - 1)
