"""Conspicuous warnings about results: networks at chance level, files that score otherwise than their networks, missed targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from edcompress.core.recipe.gate import Gate
from edcompress.core.results.measures import Accuracy, Count, ModelResult
from edcompress.core.results.report import Report
from edcompress.core.results.verdict import Check
from edcompress.report.gate.class_recall import class_alarms
from edcompress.report.render.formatting import metric_text, percent

CONFIDENCE = 0.95
"""Confidence at which a top-1 must be above what the same answers would reach by chance."""

NOISE_IMAGES, NOISE_SHARE = 2, 0.005
"""Images, or their share if that is more, to which a network and its file may give different answers by rounding."""

SHORT, SHORT_SHARE = 0.05, 0.2
"""How far below its target a run may end: in the dense network's cost, or as a share of the target if that is less."""


def lower_bound(count: Count) -> float:
    """Return the lower end of Wilson's score interval of a share of images, two-sided at CONFIDENCE; NaN for no images."""
    n, p, z = count.total, count.fraction, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if not n:
        return math.nan
    # (p + z^2 / 2n - z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    return (p + z**2 / (2 * n) - z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)


def at_chance(accuracy: Accuracy | None, whose: str) -> str | None:
    """Return the warning that a network's top-1 is not surely above chance, or None if it is or chance was not counted.

    Args:
        accuracy: The network's accuracy; None where images do not have one class each, of which nothing is known by chance.
        whose: What the warning calls the network.
    """
    if accuracy is None:
        return None
    top1, chance = accuracy.top1, accuracy.chance
    if chance is None or lower_bound(top1) > chance:
        return None
    return (
        f"{whose} is at chance level: top-1 is {percent(top1)} of {top1.total} images (at {CONFIDENCE:.0%} confidence at least "
        f"{lower_bound(top1):.2%}), and the same answers in random order would have {chance:.2%}; check that the weights are the right "
        "ones, that the classes are in the order of their training, and that data.mean, data.std, data.resize and data.channels are those "
        "of their training"
    )


def alarms(report: Report) -> tuple[str, ...]:
    """Return the conspicuous warnings about a run's results, with what to try; figures that earlier versions did not measure give none."""
    return (
        *_untrained(report),
        *_weak(report),
        *_moved(report),
        *class_alarms(report),
        *_short(report),
    )


def chance_checks(report: Report, gate: Gate) -> tuple[Check, ...]:
    """Return the failed check of an exported run whose network is at chance level; none if it is above, or is allowed to be weak."""
    name, accuracy = _decisive(report)
    if gate.allow_weak_dense or not _weak(report) or accuracy is None or accuracy.chance is None:
        return ()
    low, chance = lower_bound(accuracy.top1), accuracy.chance
    return (Check(name=f"{name}_above_chance", value=low, limit=chance, margin=low - chance, passed=False),)


def _untrained(report: Report) -> tuple[str, ...]:
    if not report.untrained_head:
        return ()
    return (
        "the dense network's classifier was untrained at the start (model.reset_head), so that drops from its accuracy say nothing: limit "
        "pruned.onnx by gate.min_top1",
    )


def _weak(report: Report) -> tuple[str, ...]:
    name, accuracy = _decisive(report)
    text = at_chance(accuracy, f"{name}.onnx") if accuracy else None
    return (f"{text}; if this is intended, set gate.allow_weak_dense (--allow-weak-dense)",) if text else ()


def _moved(report: Report) -> Iterator[str]:
    """Yield a warning about each file whose accuracy is not that of its network, which `prune` measured."""
    for name, result in (("dense", report.dense), ("pruned", report.pruned)):
        if text := _moved_score(report, name, result):
            yield text
        if result.onnx_accuracy is None or result.accuracy is None:
            continue
        before, now = result.accuracy.top1, result.onnx_accuracy.top1
        noise = max(NOISE_IMAGES, NOISE_SHARE * before.total)
        if before.total != now.total or abs(before.correct - now.correct) > noise:
            yield (
                f"{name}.onnx has {now.correct} of {now.total} test images right, but `prune` measured {before.correct} of {before.total} "
                "for the same network: the test images or their classes have changed; restore them and export again, or prune again"
            )


def _moved_score(report: Report, name: str, result: ModelResult) -> str | None:
    """Return the warning that a file's score is not that of its network."""
    before, now = result.score, result.onnx_score
    if before is None or now is None:
        return None
    noise = NOISE_SHARE * max(abs(before.value), 1.0 if report.metric.share else 0.0)
    if before.images == now.images and abs(before.value - now.value) <= noise:
        return None
    text = metric_text(report.metric)
    return (
        f"{name}.onnx has {report.metric.label} {text(now.value)} on {now.images} test images, but `prune` measured {text(before.value)} "
        f"on {before.images} for the same network: the test images or their labels have changed; restore them and export again, or prune "
        "again"
    )


def _short(report: Report) -> Iterator[str]:
    """Yield a warning about a run that removed far more than its target asks for, unless it was given its plan."""
    target = report.target
    if target.kind == "none" or target.is_drop or report.search.method == "plan":
        return
    if target.achieved < target.asked - min(SHORT, SHORT_SHARE * target.asked):
        finer = f"lower constraints.round_to ({target.round_to}), " if target.round_to > 1 else ""
        yield (
            f"{target.achieved:.1%} of the {target.kind} are left although {target.asked:.1%} may stay, so that accuracy is lost for "
            f"nothing: {finer}search longer, or try another seed"
        )


def _decisive(report: Report) -> tuple[str, Accuracy | None]:
    """Return the file that must be above chance: dense.onnx, or pruned.onnx if the dense classifier was untrained at the start."""
    if report.untrained_head:
        return "pruned", report.pruned.onnx_accuracy
    return "dense", report.dense.onnx_accuracy
