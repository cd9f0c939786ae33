"""Figures of a report that contradict each other, so that they cannot all have been measured, each named by its key.

A single value that is impossible is refused by its schema (`edcompress.core.results.measures`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edcompress.core.errors import InputError
from edcompress.core.results.measures import TOLERANCE, Accuracy, Count, Latency, ModelResult, Paired
from edcompress.core.results.report import Report

CLOSE = 0.01
"""Largest relative difference between a speed-up's estimate and the ratio of the medians, which are equal but for rounding."""

ROUNDING = 1e-9
"""Largest difference between the drop of a score and the difference of two scores, which are equal but for rounding."""

FIX = "take the report.json that edcompress wrote, or run `edcompress export --onnx` on the run again"


def require_possible(report: Report, whose: str) -> None:
    """Raise InputError if figures of a report contradict each other; the message calls the report `whose`."""
    if found := list(faults(report)):
        raise InputError("\n".join(f"{whose}: {fault}; {FIX}" for fault in found))


def faults(report: Report) -> Iterator[str]:
    """Yield each contradiction, with the keys."""
    files = _files(report)
    for key, model in files.items():
        yield from _counts(key, model, report)
        yield from _settings(key, model, report.dense)
        yield from _speedup(key, model, report.dense)
    yield from _sizes(report)
    for name, proof in report.proof:
        if proof is not None and not proof.relative <= TOLERANCE:
            yield (
                f"proof.{name}: max_abs_diff {proof.max_abs_diff:g} at scale {proof.scale:g}, but a run ends with an error if the "
                f"difference is not within {TOLERANCE:g} of the scale"
            )


def _files(report: Report) -> Mapping[str, ModelResult]:
    """Return the measurements of each ONNX file, by its key in the report."""
    variants = {f"variants.{name}.measured": variant.measured for name, variant in report.variants.items()}
    return {"dense": report.dense, "pruned": report.pruned, **variants}


def _counts(key: str, model: ModelResult, report: Report) -> Iterator[str]:
    """Yield numbers of images, and of correct ones, in which two keys differ."""
    accuracy, paired, dense = model.onnx_accuracy, model.paired, report.dense.onnx_accuracy
    yield from _scores(key, model, report)
    if accuracy and report.tested_on and accuracy.top1.total != report.tested_on.count:
        yield f"{key}.onnx_accuracy is over {accuracy.top1.total} images, but tested_on.count is {report.tested_on.count}"
    if recalls := model.recalls:
        classes, images, right = len(recalls.images), sum(recalls.images), sum(recalls.right)
        if accuracy and (classes, images, right) != (len(report.classes), accuracy.top1.total, accuracy.top1.correct):
            yield (
                f"{key}.recalls has {right} of {images} images right in {classes} classes, but {key}.onnx_accuracy.top1 has "
                f"{accuracy.top1.correct} of {accuracy.top1.total}, of {len(report.classes)} classes"
            )
    if paired is None:
        return
    for kind in ("top1", "top5"):
        yield from _pairs(f"{key}.paired.{kind}", f"{key}.onnx_accuracy.{kind}", paired, accuracy, kind)
        yield from _pairs(f"{key}.paired.{kind}", f"dense.onnx_accuracy.{kind}", paired, dense, kind)


def _scores(key: str, model: ModelResult, report: Report) -> Iterator[str]:
    """Yield scores of the metric in which two keys differ."""
    score, dense, drop = model.onnx_score, report.dense.onnx_score, model.score_drop
    if score and report.tested_on and score.images != report.tested_on.count:
        yield f"{key}.onnx_score is over {score.images} images, but tested_on.count is {report.tested_on.count}"
    if drop and score and dense and not math.isclose(drop.value, dense.value - score.value, abs_tol=ROUNDING):
        yield f"{key}.score_drop.value is {drop.value:g}, but the scores differ by {dense.value - score.value:g}"


def _pairs(key: str, beside: str, paired: Paired, accuracy: Accuracy | None, kind: str) -> Iterator[str]:
    if accuracy is None:
        return
    pairs, count = getattr(paired, kind), getattr(accuracy, kind)
    right = pairs.both + (pairs.dense_only if beside.startswith("dense.") else pairs.other_only)
    found = Count(correct=right, total=pairs.total)
    if found != count:
        yield f"{key} has {found.correct} of {found.total} right, but {beside} has {count.correct} of {count.total}"


def _settings(key: str, model: ModelResult, dense: ModelResult) -> Iterator[str]:
    """Yield latencies that were not measured side by side."""
    if model is dense:
        return
    if len(model.latencies) != len(dense.latencies):
        yield f"{key} has latencies at {len(model.latencies)} settings, but dense at {len(dense.latencies)}"
    for number, (one, other) in enumerate(zip(model.latencies, dense.latencies, strict=False)):
        differing = [f"{name} {value}, dense {dense_value}" for name, value, dense_value in _differing(one, other)]
        if differing:
            where = f"more_latency_ms.{number - 1}" if number else "latency_ms"
            yield f"{key}.{where} was not measured beside dense's: {'; '.join(differing)}"


def _differing(one: Latency, other: Latency) -> Iterator[tuple[str, object, object]]:
    for name in ("batch_size", "threads", "provider", "environment"):
        pair = getattr(one, name), getattr(other, name)
        if pair[0] != pair[1]:
            yield name, *pair


def _speedup(key: str, model: ModelResult, dense: ModelResult) -> Iterator[str]:
    """Yield speed-ups that do not follow from the latencies."""
    for one, other in zip(model.latencies, dense.latencies, strict=False):
        ratio = other.p50 / one.p50
        if one.speedup and not math.isclose(one.speedup.estimate, ratio, rel_tol=CLOSE):
            yield f"{key}.latency_ms.speedup.estimate is {one.speedup.estimate:g}, but the medians' ratio is {ratio:g}"


def _sizes(report: Report) -> Iterator[str]:
    """Yield sizes of files in which two keys differ."""
    names = {"dense": "dense.onnx", "pruned": "pruned.onnx"}
    names |= {f"variants.{name}.measured": variant.file for name, variant in report.variants.items()}
    for key, model in _files(report).items():
        record, size = report.files.get(names[key]), model.size.onnx_bytes
        if record and size is not None and size != record.bytes:
            yield f"{key}.size.onnx_bytes is {size}, but files.{names[key]}.bytes is {record.bytes}"
