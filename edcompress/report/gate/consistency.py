"""What cannot be in a report that was measured: figures that contradict each other, each named by its key.

What cannot be in one value alone is refused by the value itself (`edcompress.measures`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edcompress.core.errors import InputError
from edcompress.core.results.measures import TOLERANCE, Accuracy, Count, Latency, ModelResult, Paired
from edcompress.core.results.report import Report

CLOSE = 0.01
"""How far a speed-up's estimate may be from the ratio of the medians, relative to it: they are the same but for rounding."""

FIX = "take the report.json that edcompress wrote, or run `edcompress export --onnx` on the run again"


def require_possible(report: Report, whose: str) -> None:
    """Raise InputError where figures of the report, which is called `whose`, cannot be beside each other."""
    if found := list(faults(report)):
        raise InputError("\n".join(f"{whose}: {fault}; {FIX}" for fault in found))


def faults(report: Report) -> Iterator[str]:
    """Each contradiction, with the keys."""
    files = _files(report)
    for key, model in files.items():
        yield from _counts(key, model, report)
        yield from _settings(key, model, report.dense)
        yield from _speedup(key, model, report.dense)
    yield from _sizes(report)
    for name, proof in report.proof:
        if proof is not None and not proof.relative <= TOLERANCE:
            yield (
                f"proof.{name}: max_abs_diff {proof.max_abs_diff:g} at scale {proof.scale:g}, and a run whose difference is not within "
                f"{TOLERANCE:g} relative ends with an error"
            )


def _files(report: Report) -> Mapping[str, ModelResult]:
    """What was measured of each ONNX file, by its key in the report."""
    variants = {f"variants.{name}.measured": variant.measured for name, variant in report.variants.items()}
    return {"dense": report.dense, "pruned": report.pruned, **variants}


def _counts(key: str, model: ModelResult, report: Report) -> Iterator[str]:
    """Images, and right ones, that two keys count differently."""
    accuracy, paired, dense = model.onnx_accuracy, model.paired, report.dense.onnx_accuracy
    if accuracy and report.tested_on and accuracy.top1.total != report.tested_on.count:
        yield f"{key}.onnx_accuracy is over {accuracy.top1.total} images, and tested_on.count is {report.tested_on.count}"
    if recalls := model.recalls:
        told = (len(recalls.images), sum(recalls.images), sum(recalls.right))
        if accuracy and told != (len(report.classes), accuracy.top1.total, accuracy.top1.correct):
            yield (
                f"{key}.recalls has {told[2]} of {told[1]} images right in {told[0]} classes, and {key}.onnx_accuracy.top1 "
                f"{accuracy.top1.correct} of {accuracy.top1.total}, of {len(report.classes)} classes"
            )
    if paired is None:
        return
    for kind in ("top1", "top5"):
        yield from _pairs(f"{key}.paired.{kind}", f"{key}.onnx_accuracy.{kind}", paired, accuracy, kind)
        yield from _pairs(f"{key}.paired.{kind}", f"dense.onnx_accuracy.{kind}", paired, dense, kind)


def _pairs(key: str, beside: str, paired: Paired, accuracy: Accuracy | None, kind: str) -> Iterator[str]:
    if accuracy is None:
        return
    pairs, told = getattr(paired, kind), getattr(accuracy, kind)
    right = pairs.both + (pairs.dense_only if beside.startswith("dense.") else pairs.other_only)
    found = Count(correct=right, total=pairs.total)
    if found != told:
        yield f"{key} has {found.correct} of {found.total} right, and {beside} {told.correct} of {told.total}"


def _settings(key: str, model: ModelResult, dense: ModelResult) -> Iterator[str]:
    """Times that were not measured side by side."""
    if model is dense:
        return
    if len(model.latencies) != len(dense.latencies):
        yield f"{key} has latencies at {len(model.latencies)} settings, and dense at {len(dense.latencies)}"
    for place, (one, other) in enumerate(zip(model.latencies, dense.latencies, strict=False)):
        differing = [f"{name} {told}, dense {others}" for name, told, others in _differing(one, other)]
        if differing:
            where = f"more_latency_ms.{place - 1}" if place else "latency_ms"
            yield f"{key}.{where} was not measured beside dense's: {'; '.join(differing)}"


def _differing(one: Latency, other: Latency) -> Iterator[tuple[str, object, object]]:
    for name in ("batch_size", "threads", "provider", "environment"):
        told, others = getattr(one, name), getattr(other, name)
        if told != others:
            yield name, told, others


def _speedup(key: str, model: ModelResult, dense: ModelResult) -> Iterator[str]:
    """Speed-ups that are not those of the times beside them."""
    for one, other in zip(model.latencies, dense.latencies, strict=False):
        ratio = other.p50 / one.p50
        if one.speedup and not math.isclose(one.speedup.estimate, ratio, rel_tol=CLOSE):
            yield f"{key}.latency_ms.speedup.estimate is {one.speedup.estimate:g}, and the medians' ratio is {ratio:g}"


def _sizes(report: Report) -> Iterator[str]:
    """Bytes of files that two keys tell differently."""
    names = {"dense": "dense.onnx", "pruned": "pruned.onnx"}
    names |= {f"variants.{name}.measured": variant.file for name, variant in report.variants.items()}
    for key, model in _files(report).items():
        told, size = report.files.get(names[key]), model.size.onnx_bytes
        if told and size is not None and size != told.bytes:
            yield f"{key}.size.onnx_bytes is {size}, and files.{names[key]}.bytes is {told.bytes}"
