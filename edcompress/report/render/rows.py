"""Report figures as rows of short texts: the terminal's tables and the page show the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from edcompress.core.results.measures import Count, Latency, ModelResult, Proof
from edcompress.core.results.report import Report
from edcompress.core.results.scores import Score, value_of
from edcompress.report.gate.class_recall import worst_class
from edcompress.report.render.formatting import (
    MISSING,
    change_text,
    counts_text,
    headline_text,
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


class Comparison(NamedTuple):
    """One figure of the dense and of the pruned network, and its change."""

    name: str
    dense: str
    pruned: str
    change: str


class VariantRow(NamedTuple):
    """A file to ship: its metric, size and speed."""

    file: str
    metric: str
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


class ScoreStage(NamedTuple):
    """The score after one stage, and the images behind it."""

    name: str
    score: str
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
    """Return metric, cost and latency of the dense and the pruned network; what is not measured yet is an en dash."""
    dense, pruned = report.dense, report.pruned
    return [
        *_metric_rows(report),
        *_onnx_metric_rows(report),
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


def variant_headings(report: Report) -> tuple[str, ...]:
    """Return the headings of `variant_rows`."""
    return ("file", report.metric.label, "size", "p50", "than dense", "off PyTorch")


def variant_rows(report: Report) -> list[VariantRow]:
    """Return pruned.onnx and its variants, if there are variants: the speed-up is over the dense file, the difference from PyTorch."""
    if not report.variants:
        return []
    proof = report.proof.pruned_vs_onnx
    assert proof is not None  # a variant is made from an exported network
    variants = [(variant.file, variant.measured, variant.parity) for variant in report.variants.values()]
    return [_variant_row(report, *row) for row in (("pruned.onnx", report.pruned, proof), *variants)]


def _variant_row(report: Report, file: str, measured: ModelResult, parity: Proof) -> VariantRow:
    metric = report.metric
    text = headline_text(measured.onnx_headline(metric) or measured.headline(metric), metric)
    latency = _latency_row("p50", report.dense.latency_ms, measured.latency_ms)
    size = human(measured.size.onnx_bytes or 0, "B")
    return VariantRow(file, text, size, latency.pruned, latency.change, tiny(parity.relative))


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


def stage_headings(report: Report) -> tuple[str, ...]:
    """Return the headings of `stage_rows`."""
    label = report.metric.label
    return ("", "top-1", "top-5", "top-1 correct") if report.metric.counted else ("", label, "measured on")


def stage_rows(report: Report) -> list[Stage] | list[ScoreStage]:
    """Return the accuracy after each stage; for a metric that is no count of images its score."""
    metric = report.metric
    if not metric.counted:
        headlines = ((name, result.headline(metric)) for name, result in stages(report))
        return [ScoreStage(name, headline_text(found, metric), counts_text(found)) for name, found in headlines]
    accuracies = ((name, result.accuracy) for name, result in stages(report))
    return [
        Stage(
            name,
            percent(found.top1),
            MISSING if report.top5_without_use else percent(found.top5),
            f"{found.top1.correct}/{found.top1.total}",
        )
        for name, found in accuracies
        if found
    ]


def proof_rows(report: Report) -> list[Equality]:
    """Return the equalities of the run; those of ONNX files are an en dash until the export."""
    proof, answer = report.proof, "top-1" if report.pruned.accuracy else "class"
    return [
        _equality("masked = pruned", proof.masked_vs_pruned, answer),
        _equality("pruned = reloaded", proof.pruned_vs_reloaded, answer),
        _equality("dense = ONNX", proof.dense_vs_onnx, answer),
        _equality("pruned = ONNX", proof.pruned_vs_onnx, answer),
        *([_equality("ONNX = from pixels", proof.onnx_vs_pixels, answer)] if proof.onnx_vs_pixels else []),
    ]


def _accuracy_row(name: str, dense: Count, pruned: Count) -> Comparison:
    known = dense.total and pruned.total
    change = points(pruned.fraction - dense.fraction) if known else MISSING
    return Comparison(name, percent(dense), percent(pruned), change)


def _metric_rows(report: Report) -> list[Comparison]:
    """Return the recipe's metric, and top-1 and top-5 where each image has one class."""
    dense, pruned, metric = report.dense, report.pruned, report.metric
    rows = [] if metric.counted else [_headline_row(metric.label, report, dense.score, pruned.score)]
    if dense.accuracy and pruned.accuracy:
        rows.append(_accuracy_row("top-1", dense.accuracy.top1, pruned.accuracy.top1))
        if why := report.top5_without_use:
            rows.append(Comparison("top-5", MISSING, MISSING, why))
        else:
            rows.append(_accuracy_row("top-5", dense.accuracy.top5, pruned.accuracy.top5))
    return rows


def _headline_row(name: str, report: Report, dense: Count | Score | None, pruned: Count | Score | None) -> Comparison:
    metric = report.metric
    if dense is None or pruned is None:
        return Comparison(name, MISSING, MISSING, MISSING)
    change = value_of(pruned) - value_of(dense)
    texts = headline_text(dense, metric), headline_text(pruned, metric)
    return Comparison(name, *texts, change_text(change, metric) if math.isfinite(change) else MISSING)


def _class_rows(report: Report) -> list[Comparison]:
    """Return the class that loses most, if one loses or the gate limits it."""
    found = worst_class(report, report.pruned)
    limited = report.limits is not None and "max_class_drop" in report.limits.limits
    if found is None or (found.drop <= 0 and not limited):
        return []
    return [_accuracy_row(f"worst class: {found.name}", found.dense, found.other)]


def _onnx_metric_rows(report: Report) -> list[Comparison]:
    dense, pruned = (model.onnx_headline(report.metric) for model in (report.dense, report.pruned))
    return [_headline_row(f"{report.metric.label} of the files", report, dense, pruned)] if dense and pruned else []


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


def _equality(name: str, proof: Proof | None, answer: str) -> Equality:
    if proof is None:
        return Equality(name, MISSING, MISSING, "not exported yet")
    return Equality(name, tiny(proof.max_abs_diff), tiny(proof.relative), proof.of + _agreement(proof, answer))


def _agreement(proof: Proof, answer: str) -> str:
    if proof.mean_abs_diff is None or proof.agreeing is None:
        return ""
    return f"; mean {tiny(proof.mean_abs_diff)}, same {answer} on {proof.agreeing.correct} of {proof.agreeing.total}"
