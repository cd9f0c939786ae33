"""Warnings about a run's outcome: an accuracy that fell too far, with what to try, and figures that say less than they seem to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from statistics import NormalDist
from typing import Any

from edcompress.core.recipe.search import FEWEST_GENERATIONS
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Report
from edcompress.core.results.scores import TOP1, MetricInfo, Score, images_of, value_of
from edcompress.report.gate.figures import decimal
from edcompress.report.gate.sanity import alarms
from edcompress.report.render.formatting import headline_text, plain

CONFIDENCE = 0.95
"""Confidence at which a drop is more than the noise of the test images."""

FEW_GENERATIONS = 5
"""Generations before the budget is reached below which it falls as in one jump."""


def noise(dense: Count | Score, pruned: Count | Score) -> float:
    """Return the largest drop of accuracy that two equally good networks may show on these images, at CONFIDENCE.

    It is z sqrt(2 p (1 - p) / n), as for two networks whose errors have nothing in common, so that it is on the safe side for a network
    and what was made of it. Infinity without images, and for a score, whose noise is known after the export alone.
    """
    if not (isinstance(dense, Count) and isinstance(pruned, Count)):
        return math.inf
    n = min(dense.total, pruned.total)
    if not n:
        return math.inf
    p = (dense.correct + pruned.correct) / (dense.total + pruned.total)
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(2 * p * (1 - p) / n)


def _both(report: Report) -> tuple[Count | Score, Count | Score]:
    """Return the recipe's metric of the dense and of the pruned network."""
    return report.dense.headline(report.metric), report.pruned.headline(report.metric)


def is_beyond_noise(report: Report) -> bool:
    """Return whether the metric fell further than the noise of the test images explains."""
    dense, pruned = _both(report)
    if report.untrained_head or not (images_of(dense) and images_of(pruned)):
        return False
    if found := report.pruned.score_drop:
        interval = found.interval(CONFIDENCE)
        return interval is not None and interval.low > 0
    return value_of(dense) - value_of(pruned) > noise(dense, pruned)


def has_fallen(report: Report) -> bool:
    """Return whether the metric fell further than the gate allows or, without such a limit, than noise explains."""
    dense, pruned = _both(report)
    if report.untrained_head or not (images_of(dense) and images_of(pruned)):
        return False
    limit = _allowed_drop(report)
    return is_beyond_noise(report) if limit is None else _exact(dense) - _exact(pruned) > decimal(limit)


def _exact(found: Count | Score) -> Fraction:
    return Fraction(found.correct, found.total) if isinstance(found, Count) else decimal(found.value)


def loud_warnings(report: Report) -> tuple[str, ...]:
    """Return the conspicuous warnings about a run's results, with what to try, the drop of the metric first.

    The gate has a check of its own for the drop, and takes the other ones (`alarms`).
    """
    return (*_drop_warnings(report), *alarms(report))


def _drop_warnings(report: Report) -> Iterator[str]:
    """Yield the warning about an accuracy that fell too far (see `has_fallen`), with its course and what to try."""
    if not has_fallen(report):
        return
    (dense, pruned), metric = _both(report), report.metric
    limit, text = _allowed_drop(report), _drop_text(metric)
    reason = (
        f"noise of {images_of(dense)} test images explains {_noise_text(report)}"
        if limit is None
        else f"gate.{_limit_key(report)} allows {text(limit)}"
    )
    stages = (report.dense, report.masked, report.after_surgery, report.pruned)
    course = ", ".join(
        f"{headline_text(stage.headline(metric), metric)} {name}"
        for stage, name in zip(stages, ("dense", "masked", "after surgery", "after fine-tuning"), strict=True)
    )
    drop = value_of(dense) - value_of(pruned)
    yield f"{metric.label} fell by {text(drop)}, and {reason} ({course}); try, in this order: {'; '.join(_advice(report))}"


def _drop_text(metric: MetricInfo) -> Callable[[float], str]:
    return (lambda drop: f"{100 * drop:.2f} points") if metric.share else plain


def _noise_text(report: Report) -> str:
    """Return the drop that noise explains: for a score what the bootstrap leaves of it."""
    dense, pruned = _both(report)
    if found := report.pruned.score_drop:
        interval = found.interval(CONFIDENCE)
        return _drop_text(report.metric)(found.value - interval.low) if interval else "an unknown part"
    return _drop_text(report.metric)(noise(dense, pruned))


def remarks(report: Report) -> tuple[str, ...]:
    """Return one line for each figure that says less than it seems to."""
    return (*_few_images(report), *_short_search(report))


def _allowed_drop(report: Report) -> float | None:
    return report.limits.limits.get(_limit_key(report)) if report.limits else None


def _limit_key(report: Report) -> str:
    """Return the gate's limit on the drop of the recipe's metric."""
    given = report.limits.limits if report.limits else {}
    return "max_top1_drop" if report.metric == TOP1 and "max_top1_drop" in given else "max_drop"


def _advice(report: Report) -> list[str]:
    """Return what to try for more accuracy, what helps most first."""
    settings: Mapping[str, Any] = report.settings or {}
    finetune: Mapping[str, Any] = settings.get("finetune", {})
    epochs, target = finetune.get("epochs"), report.target
    more = ["a longer search (search.epochs)"] if "search.method" in report.chosen else []
    more.append(f"more epochs (finetune.epochs: {2 * epochs})" if epochs else "more finetune.epochs")
    if finetune.get("distill") == 0 and not report.untrained_head:
        more.append("the dense network's soft labels (finetune.distill: 0.9)")
    if "finetune.lr" not in report.chosen and finetune.get("lr"):
        more.append(f"a rate other than finetune.lr {finetune['lr']:g}, or none, so that the run chooses it")
    if target.kind in ("macs", "params", "channels", "latency"):
        more.append(f"a milder target (target.{target.kind}: {min(0.95, (1 + target.asked) / 2):.2g})")
    return [
        *more,
        f"or let the {'accuracy' if report.metric.counted else 'metric'} decide (target.{_target_key(report)})",
    ]


def _target_key(report: Report) -> str:
    return "max_top1_drop" if report.metric == TOP1 else "max_drop"


def _few_images(report: Report) -> Iterator[str]:
    """Yield the remark that the test images are too few to see a drop of the size that the gate allows."""
    limit = _allowed_drop(report)
    dense, pruned = _both(report)
    if not (isinstance(dense, Count) and isinstance(pruned, Count)):
        yield from _wide_interval(report, limit)
        return
    if not limit or not dense.total or noise(dense, pruned) <= limit:
        return
    needed, text = math.ceil(dense.total * (noise(dense, pruned) / limit) ** 2), _drop_text(report.metric)
    yield (
        f"{report.metric.label}: {dense.total} test images are too few to tell a drop of {text(limit)} (gate.{_limit_key(report)}) from "
        f"noise, which is {text(noise(dense, pruned))}; about {needed} are enough"
    )


def _wide_interval(report: Report, limit: float | None) -> Iterator[str]:
    """Yield the remark that the interval of a score's drop is wider than the drop that the gate allows."""
    found, text = report.pruned.score_drop, _drop_text(report.metric)
    interval = found.interval(CONFIDENCE) if found else None
    if interval is None or not limit or (interval.high - interval.low) / 2 <= limit:
        return
    images = images_of(report.pruned.headline(report.metric))
    yield (
        f"{report.metric.label}: {images} test images are too few to tell a drop of {text(limit)} (gate.{_limit_key(report)}) from noise, "
        f"which is {text((interval.high - interval.low) / 2)}"
    )


def _short_search(report: Report) -> Iterator[str]:
    """Yield remarks on a search that had not converged, or whose budget fell too fast."""
    search = report.search
    if not search.generations:
        if why := report.chosen.get("search.method"):
            yield f"search: {why}"
        return
    if not search.converged and search.method == "edropout":
        yield (
            f"search: it had not converged after {search.generations} generations, its states differ in {search.diversity:.1%} of the "
            "channels; more search.epochs would change the result"
        )
    tightening = search.tightening
    if tightening is not None and tightening < FEW_GENERATIONS and report.target.kind != "none":
        yield (
            f"search: the budget reached its target after {tightening} generations; {FEWEST_GENERATIONS} are better: raise search.epochs, "
            "or lower search.evolve_every"
        )
