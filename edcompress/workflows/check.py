"""Verb: what a recipe will do, and what keeps it from starting, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from edcompress.core.errors import DataError, InputError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.search import FEWEST_GENERATIONS
from edcompress.core.results.recipe_check import Expectation, GroupCounts, ImageCounts, RecipeCheck, Schedule
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.machine import memory_bytes
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.images import spread
from edcompress.deploy.latency.benchmark import require_measurable
from edcompress.networks.build import example_images
from edcompress.networks.registry import require_known
from edcompress.pruning.cost.network_size import measure_size
from edcompress.report.render.formatting import human
from edcompress.workflows.stages.batch_size import sized_for_search
from edcompress.workflows.stages.expectation import Work, expect, schedule_of
from edcompress.workflows.stages.feasibility import require_exportable
from edcompress.workflows.stages.recovery import resolve_recipe
from edcompress.workflows.stages.run_context import RunContext, open_provable_context
from edcompress.workflows.stages.search import check_search
from edcompress.workflows.stages.starting_point import StartingPoint, new_starting_point, open_starting_point
from edcompress.workflows.weights import GivenWeights, Weights, open_weights

JUDGED = 256
"""Held-out images that the dense network is tried on."""


class _Notes(NullMonitor):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warning(self, text: str) -> None:
        """Keep the warning."""
        self.texts.append(text)


@dataclass(frozen=True)
class _Findings:
    """The faults and the warnings that are found one after the other."""

    faults: list[str]
    notes: _Notes

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Note the InputError that ends a block as a fault, so that the checks go on."""
        try:
            yield
        except InputError as error:
            if (text := str(error)) not in self.faults:
                self.faults.append(text)


def check_recipe(
    recipe: Recipe,
    weights: Weights | None = None,
    options: RunOptions = DEFAULT,
    *,
    name: str = "",
    timing: bool = True,
) -> RecipeCheck:
    """Try everything of a recipe that can be tried before training.

    Args:
        recipe: A valid recipe.
        weights: A weights file, a finished run, or the name of weights, which are fetched; None: random weights.
        options: Device and trust.
        name: What to call the recipe; default: its own name.
        timing: Measure how long a step takes, which takes seconds.

    Returns:
        All faults at once, and the plan of the run as far as it is known. It raises no InputError.
    """
    found = _Findings([], _Notes())
    given = None
    with found.fault():
        given = open_weights(weights, found.notes) if weights is not None else None
        recipe = given.completed(recipe.explicit) if given and given.offer.values else recipe
    context, start = _open(recipe, given, replace(options, monitor=found.notes), found)
    result = RecipeCheck(
        recipe=name or recipe.name,
        network=recipe.model.name,
        dataset=recipe.data.dataset,
        weights=(given.name if given.source else str(given.path)) if given else None,
        images=_images(context) if context else None,
        size=measure_size(start.network, example_images(recipe.network_spec.image_shape)) if start else None,
        groups=_groups(start) if start else None,
    )
    if context and start:
        with found.fault():
            settled, context = settle(recipe, context, start)
            schedule = _schedule(settled, context)
            found.notes.texts += _doubts(schedule)
            expected = _expected(settled, context, start, schedule, result) if timing else None
            chosen = {key: f"{settled.value_of(key)} ({why})" for key, why in settled.chosen.items()}
            result = result.model_copy(update={"schedule": schedule, "expected": expected, "chosen": chosen})
    return result.model_copy(
        update={"faults": tuple(found.faults), "warnings": tuple(dict.fromkeys(found.notes.texts))}
    )


def settle(recipe: Recipe, context: RunContext, start: StartingPoint) -> tuple[Recipe, RunContext]:
    """Return recipe and context with the numbers that a run chooses itself, from fewer held-out images than a run judges by."""
    context = sized_for_search(context, start, recipe.search, recipe.finetune.config)
    few = context.splits.search.subset(spread(len(context.splits.search), JUDGED))
    quick = replace(context, splits=replace(context.splits, search=few))
    recipe, _ = resolve_recipe(recipe, quick, start)
    return recipe, replace(context, data=recipe.data)


def _open(
    recipe: Recipe, given: GivenWeights | None, options: RunOptions, found: _Findings
) -> tuple[RunContext | None, StartingPoint | None]:
    """Open the images and the network, each even where the other cannot be."""
    context, start, known = None, None, False
    with found.fault():
        require_known(recipe.model)
        known = True
    with found.fault():
        require_measurable(recipe.timing)
    if recipe.own_code and not options.trust_code:
        named = ", ".join(f"{key} {spec}" for key, spec in recipe.own_code.items())
        found.notes.warning(f"{named} was not tried: it needs --trust-code")
    else:
        with found.fault():
            context = _open_images(recipe, options)
    if recipe.model.factory and not options.trust_code:
        found.notes.warning(f"model.factory {recipe.model.factory} was not tried: it needs --trust-code")
    elif known:
        with found.fault():
            start = _start(recipe.with_data(context.data) if context else recipe, given, options, context)
        if context and start:
            with found.fault():
                context.require_usable(start.network, context.task.finetune)
                check_search(recipe.search, context, start)
                require_exportable(start.dense, context.example, recipe.model, recipe.export)
    return context, start


def _open_images(recipe: Recipe, options: RunOptions) -> RunContext:
    """Open the images that are there, and download none."""
    try:
        return open_provable_context(recipe.with_data(recipe.data.model_copy(update={"download": False})), options)
    except DataError as error:
        if not recipe.data.download:
            raise
        raise DataError(f"{error}; data.download is set: prune and run download it, check does not") from error


def _start(
    recipe: Recipe, given: GivenWeights | None, options: RunOptions, context: RunContext | None
) -> StartingPoint:
    if recipe.targets_latency:
        options.monitor.warning("a target in time is not tried here: it needs a measurement, which `prune` begins with")
        recipe = recipe.model_copy(update={"target": None})
    images = context.probe_images if context else None
    if given is None:
        return new_starting_point(recipe, options, images)
    given.warn_of_differences(recipe.data.model_dump(), options.monitor)
    return open_starting_point(recipe, given.path, options, images)


def _images(context: RunContext) -> ImageCounts:
    splits = context.splits
    return ImageCounts(
        classes=len(splits.classes), train=len(splits.train), search=len(splits.search), test=len(splits.test)
    )


def _groups(start: StartingPoint) -> GroupCounts:
    free = start.space.free
    return GroupCounts(
        free=len(free), locked=len(start.space.groups) - len(free), channels=sum(group.channels for group in free)
    )


def _schedule(recipe: Recipe, context: RunContext) -> Schedule:
    search = recipe.search
    period = search.for_batches_of(context.data.step_images).period if search.trains else None
    by_drop = recipe.target is not None and recipe.target.drop is not None
    epochs = recipe.search_epochs, recipe.total_epochs - recipe.search_epochs
    return schedule_of(context, epochs, period, recipe.target.trials if by_drop and recipe.target else 1)


def _doubts(schedule: Schedule) -> Iterator[str]:
    if schedule.search_epochs and schedule.generations < FEWEST_GENERATIONS:
        yield (
            f"the search has only {schedule.generations} generations, and takes at least {FEWEST_GENERATIONS} to choose well: raise "
            "search.epochs, or lower data.batch_size or search.evolve_every"
        )


def _expected(
    recipe: Recipe, context: RunContext, start: StartingPoint, schedule: Schedule, found: RecipeCheck
) -> Expectation:
    """Return time and memory; warn of more memory than there is."""
    assert found.images
    assert found.size
    target, batch = recipe.target, context.data.step_images
    search = recipe.search.for_batches_of(batch)
    states = search.population * (1 if search.parent_energies == "stored" else 2)
    scored = states * search.scored(batch) / (batch * search.period)
    share = target.macs if target and target.macs else 1.0
    work = Work(found.size.macs, share, bool(recipe.finetune.distill), scored)
    expected = expect(start.network, context, schedule, found.images, work)
    available = memory_bytes()
    if context.device.type == "cpu" and available and expected.memory_bytes > available[1]:
        context.monitor.warning(
            f"a step takes about {human(expected.memory_bytes, 'B')} of memory, and {human(available[1], 'B')} are available: lower "
            "data.batch_size"
        )
    return expected
