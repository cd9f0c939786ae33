"""Warnings about a run's outcome: an accuracy that fell too far, with what to try, and figures that say less than they seem to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from statistics import NormalDist
from typing import Any

from edcompress.core.recipe.search import FEWEST_GENERATIONS
from edcompress.core.results.measures import Count
from edcompress.core.results.report import Report
from edcompress.report.gate.figures import decimal
from edcompress.report.gate.sanity import alarms
from edcompress.report.render.formatting import percent

CONFIDENCE = 0.95
"""Confidence at which a drop is more than the noise of the test images."""

FEW_GENERATIONS = 5
"""Generations before the budget is reached below which it falls as in one jump."""


def noise(dense: Count, pruned: Count) -> float:
    """Return the largest drop of accuracy that two equally good networks may show on these images, at CONFIDENCE.

    It is z sqrt(2 p (1 - p) / n), as for two networks whose errors have nothing in common, so that it is on the safe side for a network
    and what was made of it. Infinity without images.
    """
    n = min(dense.total, pruned.total)
    if not n:
        return math.inf
    p = (dense.correct + pruned.correct) / (dense.total + pruned.total)
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(2 * p * (1 - p) / n)


def is_beyond_noise(report: Report) -> bool:
    """Return whether top-1 fell further than the noise of the test images explains."""
    dense, pruned = report.dense.accuracy.top1, report.pruned.accuracy.top1
    known = dense.total and pruned.total and not report.untrained_head
    return bool(known and dense.fraction - pruned.fraction > noise(dense, pruned))


def has_fallen(report: Report) -> bool:
    """Return whether top-1 fell further than the gate allows or, without such a limit, than noise explains."""
    dense, pruned = report.dense.accuracy.top1, report.pruned.accuracy.top1
    if report.untrained_head or not (dense.total and pruned.total):
        return False
    limit = _allowed_drop(report)
    return is_beyond_noise(report) if limit is None else _exact(dense) - _exact(pruned) > decimal(limit)


def _exact(count: Count) -> Fraction:
    return Fraction(count.correct, count.total)


def loud_warnings(report: Report) -> tuple[str, ...]:
    """Return the conspicuous warnings about a run's results, with what to try, the drop of accuracy first.

    The gate has a check of its own for the drop, and takes the other ones (`alarms`).
    """
    return (*_drop_warnings(report), *alarms(report))


def _drop_warnings(report: Report) -> Iterator[str]:
    """Yield the warning about an accuracy that fell too far (see `has_fallen`), with its course and what to try."""
    if not has_fallen(report):
        return
    dense, pruned = report.dense.accuracy.top1, report.pruned.accuracy.top1
    drop, limit = dense.fraction - pruned.fraction, _allowed_drop(report)
    reason = (
        f"noise of {dense.total} test images explains {noise(dense, pruned):.2%}"
        if limit is None
        else f"gate.max_top1_drop allows {limit:.2%}"
    )
    stages = (report.dense, report.masked, report.after_surgery, report.pruned)
    course = ", ".join(
        f"{percent(stage.accuracy.top1)} {name}"
        for stage, name in zip(stages, ("dense", "masked", "after surgery", "after fine-tuning"), strict=True)
    )
    yield f"top-1 fell by {drop:.2%}, and {reason} ({course}); try, in this order: {'; '.join(_advice(report))}"


def remarks(report: Report) -> tuple[str, ...]:
    """Return one line for each figure that says less than it seems to."""
    return (*_few_images(report), *_short_search(report))


def _allowed_drop(report: Report) -> float | None:
    return report.limits.limits.get("max_top1_drop") if report.limits else None


def _advice(report: Report) -> list[str]:
    """Return what to try for more accuracy, what helps most first."""
    settings: Mapping[str, Any] = report.settings or {}
    finetune: Mapping[str, Any] = settings.get("finetune", {})
    epochs, target = finetune.get("epochs"), report.target
    more = [f"more epochs (finetune.epochs: {2 * epochs})"] if epochs else ["more finetune.epochs"]
    if finetune.get("distill") == 0 and not report.untrained_head:
        more.append("the dense network's soft labels (finetune.distill: 0.9)")
    if "finetune.lr" not in report.chosen and finetune.get("lr"):
        more.append(f"a rate other than finetune.lr {finetune['lr']:g}, or none, so that the run chooses it")
    if target.kind in ("macs", "params", "channels", "latency"):
        more.append(f"a milder target (target.{target.kind}: {min(0.95, (1 + target.asked) / 2):.2g})")
    return [*more, "or let the accuracy decide (target.max_top1_drop)"]


def _few_images(report: Report) -> Iterator[str]:
    """Yield the remark that the test images are too few to see a drop of the size that the gate allows."""
    limit = _allowed_drop(report)
    dense, pruned = report.dense.accuracy.top1, report.pruned.accuracy.top1
    if not limit or not dense.total or noise(dense, pruned) <= limit:
        return
    needed = math.ceil(dense.total * (noise(dense, pruned) / limit) ** 2)
    yield (
        f"top-1: {dense.total} test images are too few to tell a drop of {limit:.2%} (gate.max_top1_drop) from noise, which is "
        f"{noise(dense, pruned):.2%}; about {needed} are enough"
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
