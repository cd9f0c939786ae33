"""Report figures as rows of short texts: the terminal's tables and the page show the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from edcompress.core.results.measures import Accuracy, Count, Latency, ModelResult, Proof
from edcompress.core.results.report import Report
from edcompress.report.gate.class_recall import worst_class
from edcompress.report.render.formatting import (
    MISSING,
    human,
    milliseconds,
    percent,
    points,
    setting,
    speedup,
    times,
    tiny,
)

PERCENTILES = ("p50", "p90", "p99")
VARIANT_HEADINGS = ("file", "top-1", "size", "p50", "than dense", "off PyTorch")


class Comparison(NamedTuple):
    """One figure of the dense and of the pruned network, and its change."""

    name: str
    dense: str
    pruned: str
    change: str


class VariantRow(NamedTuple):
    """A file to ship: its accuracy, size and speed."""

    file: str
    top1: str
    size: str
    p50: str
    change: str
    relative: str


class Stage(NamedTuple):
    """The accuracy after one stage: per cent, and the counts behind it."""

    name: str
    top1: str
    top5: str
    counts: str


class Equality(NamedTuple):
    """One proof: what was compared, and by how much its logits differ."""

    name: str
    difference: str
    relative: str
    of: str


class LatencyRow(NamedTuple):
    """One of several models that were measured side by side."""

    name: str
    p50: str
    p90: str
    p99: str
    peak: str
    speedup: str


class SettingRow(NamedTuple):
    """The dense and the pruned network at one batch size and number of threads."""

    setting: str
    dense: str
    pruned: str
    speedup: str


def comparison_rows(report: Report) -> list[Comparison]:
    """Return accuracy, cost and latency of the dense and the pruned network; what is not measured yet is an en dash."""
    dense, pruned = report.dense, report.pruned
    return [
        _accuracy_row("top-1", dense.accuracy.top1, pruned.accuracy.top1),
        _top5_row(report),
        *_onnx_accuracy_rows(dense.onnx_accuracy, pruned.onnx_accuracy),
        *_class_rows(report),
        _cost_row("parameters", dense.size.params, pruned.size.params, "", "fewer/more"),
        _cost_row("MACs", dense.size.macs, pruned.size.macs, "", "fewer/more"),
        _cost_row("ONNX size", dense.size.onnx_bytes, pruned.size.onnx_bytes, "B", "smaller/larger"),
        *(_latency_row(kind, dense.latency_ms, pruned.latency_ms) for kind in PERCENTILES),
        _cost_row("peak memory", _peak_of(dense.latency_ms), _peak_of(pruned.latency_ms), "B", "smaller/larger"),
    ]


def latency_rows(latency: Mapping[str, Latency]) -> list[LatencyRow]:
    """Return a row per model, by name."""
    return [
        LatencyRow(
            name,
            milliseconds(found.p50),
            milliseconds(found.p90),
            milliseconds(found.p99),
            MISSING if found.peak_bytes is None else human(found.peak_bytes, "B"),
            speedup(found.speedup),
        )
        for name, found in latency.items()
    ]


def setting_rows(report: Report) -> list[SettingRow]:
    """Return a row per batch size and number of threads that was measured."""
    pairs = zip(report.dense.latencies, report.pruned.latencies, strict=False)
    return [
        SettingRow(setting(dense), milliseconds(dense.p50), milliseconds(pruned.p50), speedup(pruned.speedup))
        for dense, pruned in pairs
    ]


def variant_rows(report: Report) -> list[VariantRow]:
    """Return pruned.onnx and its variants, if there are variants: the speed-up is over the dense file, the difference from PyTorch."""
    if not report.variants:
        return []
    proof = report.proof.pruned_vs_onnx
    assert proof is not None  # a variant is made from an exported network
    variants = [(variant.file, variant.measured, variant.parity) for variant in report.variants.values()]
    return [_variant_row(report, *row) for row in (("pruned.onnx", report.pruned, proof), *variants)]


def _variant_row(report: Report, file: str, measured: ModelResult, parity: Proof) -> VariantRow:
    top1 = (measured.onnx_accuracy or measured.accuracy).top1
    latency = _latency_row("p50", report.dense.latency_ms, measured.latency_ms)
    size = human(measured.size.onnx_bytes or 0, "B")
    return VariantRow(file, percent(top1), size, latency.pruned, latency.change, tiny(parity.relative))


def ship_line(report: Report) -> str:
    """Return what to ship and why; "" before the export."""
    if report.ship is None:
        return ""
    return f"ship {report.ship.file}: {report.ship.why}" if report.ship.file else f"ship nothing: {report.ship.why}"


def stages(report: Report) -> list[tuple[str, ModelResult]]:
    """Return the four stages in their order, each with its measured result."""
    return [
        ("dense", report.dense),
        ("masked", report.masked),
        ("after surgery", report.after_surgery),
        ("after fine-tuning", report.pruned),
    ]


def stage_rows(report: Report) -> list[Stage]:
    """Return the accuracy after each stage."""
    accuracies = ((name, result.accuracy) for name, result in stages(report))
    return [
        Stage(
            name,
            percent(found.top1),
            MISSING if report.top5_without_use else percent(found.top5),
            f"{found.top1.correct}/{found.top1.total}",
        )
        for name, found in accuracies
    ]


def proof_rows(report: Report) -> list[Equality]:
    """Return the equalities of the run; those of ONNX files are an en dash until the export."""
    proof = report.proof
    return [
        _equality("masked = pruned", proof.masked_vs_pruned),
        _equality("pruned = reloaded", proof.pruned_vs_reloaded),
        _equality("dense = ONNX", proof.dense_vs_onnx),
        _equality("pruned = ONNX", proof.pruned_vs_onnx),
        *([_equality("ONNX = from pixels", proof.onnx_vs_pixels)] if proof.onnx_vs_pixels else []),
    ]


def _accuracy_row(name: str, dense: Count, pruned: Count) -> Comparison:
    known = dense.total and pruned.total
    change = points(pruned.fraction - dense.fraction) if known else MISSING
    return Comparison(name, percent(dense), percent(pruned), change)


def _top5_row(report: Report) -> Comparison:
    if why := report.top5_without_use:
        return Comparison("top-5", MISSING, MISSING, why)
    return _accuracy_row("top-5", report.dense.accuracy.top5, report.pruned.accuracy.top5)


def _class_rows(report: Report) -> list[Comparison]:
    """Return the class that loses most, if one loses or the gate limits it."""
    found = worst_class(report, report.pruned)
    limited = report.limits is not None and "max_class_drop" in report.limits.limits
    if found is None or (found.drop <= 0 and not limited):
        return []
    return [_accuracy_row(f"worst class: {found.name}", found.dense, found.other)]


def _onnx_accuracy_rows(dense: Accuracy | None, pruned: Accuracy | None) -> list[Comparison]:
    return [_accuracy_row("top-1 of the files", dense.top1, pruned.top1)] if dense and pruned else []


def _cost_row(name: str, dense: int | None, pruned: int | None, unit: str, words: str) -> Comparison:
    texts = [MISSING if value is None else human(value, unit) for value in (dense, pruned)]
    better, worse = words.split("/")
    return Comparison(name, texts[0], texts[1], times(dense or 0, pruned or 0, better, worse))


def _latency_row(kind: str, dense: Latency | None, pruned: Latency | None) -> Comparison:
    values = [math.nan if latency is None else float(getattr(latency, kind)) for latency in (dense, pruned)]
    texts = [milliseconds(value) if math.isfinite(value) else MISSING for value in values]
    change = times(values[0], values[1], "faster", "slower")
    if kind == "p50" and pruned and pruned.speedup:
        change = speedup(pruned.speedup)
    return Comparison(f"latency {kind}", texts[0], texts[1], change)


def _peak_of(latency: Latency | None) -> int | None:
    return latency.peak_bytes if latency else None


def _equality(name: str, proof: Proof | None) -> Equality:
    if proof is None:
        return Equality(name, MISSING, MISSING, "not exported yet")
    return Equality(name, tiny(proof.max_abs_diff), tiny(proof.relative), proof.of + _agreement(proof))


def _agreement(proof: Proof) -> str:
    if proof.mean_abs_diff is None or proof.agreeing is None:
        return ""
    return f"; mean {tiny(proof.mean_abs_diff)}, same top-1 on {proof.agreeing.correct} of {proof.agreeing.total}"
