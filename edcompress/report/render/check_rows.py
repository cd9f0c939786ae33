"""The plan of a run as rows of short texts."""

from __future__ import annotations

from collections.abc import Iterator

from edcompress.core.results.recipe_check import Expectation, RecipeCheck, Schedule
from edcompress.report.render.formatting import human


def plan_rows(found: RecipeCheck) -> Iterator[tuple[str, str]]:
    """Yield what each row is about, and what was found, as far as it is known."""
    if found.size:
        size = f"{human(found.size.params)} parameters, {human(found.size.macs)} multiply-accumulates"
        yield "network", f"{found.network}: {size}"
    yield "weights", f"{found.weights} fits" if found.weights else "random; try yours with --weights"
    if images := found.images:
        held = f"{images.train} train, {images.search} judge states, {images.test} test"
        yield "images", f"{held}; {images.classes} classes"
    if groups := found.groups:
        yield "groups", f"{groups.free} free with {groups.channels} channels, {groups.locked} locked"
    if found.schedule:
        yield from _schedule_rows(found.schedule)
    if found.expected:
        yield "time", duration(found.expected)
        yield "memory", f"about {human(found.expected.memory_bytes, 'B')}"


def _schedule_rows(schedule: Schedule) -> Iterator[tuple[str, str]]:
    yield "steps", f"{schedule.steps_per_epoch} per epoch, of {schedule.batch_size} images"
    trials = f", for each of at most {schedule.trials} networks" if schedule.trials > 1 else ""
    yield "epochs", f"{schedule.search_epochs} search, {schedule.finetune_epochs} fine-tuning{trials}"
    yield "generations", str(schedule.generations) if schedule.search_epochs else "none: the method chooses once"


def duration(expected: Expectation) -> str:
    """Return, for example, "about 3 min", or "about 1.5 h"."""
    minutes = expected.seconds / 60
    if minutes < 1.5:
        return f"about {max(1, round(expected.seconds))} s"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
