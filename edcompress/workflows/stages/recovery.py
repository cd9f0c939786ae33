"""The values that a recipe leaves open, chosen for its images and its network before the first step."""

from __future__ import annotations

from edcompress.core.recipe.choices import Facts, chosen, chosen_data
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.scores import value_of
from edcompress.networks.modes import on_cpu
from edcompress.training.batchnorm import running_statistics
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint


def resolve_recipe(recipe: Recipe, context: RunContext, start: StartingPoint) -> Recipe:
    """Return the recipe with a value for every key that it leaves open, and the reasons in `chosen`; announce them.

    How good the teacher is on held-out images decides what its soft labels are worth, and is measured only where that is open.
    """
    data = chosen_data(recipe.data, len(context.splits.train))
    recipe = recipe.with_values(
        {f"data.{key}": getattr(context.data, key) for key in ("batch_size", "augment")},
        {key: choice.why for key, choice in data.items()},
    )
    recipe = chosen(recipe, _facts(recipe, context, start))
    if context.ranks.is_main:
        for key, why in recipe.chosen.items():
            context.monitor.stage(f"chosen: {key} = {recipe.value_of(key)} ({why})")
    return recipe


def _facts(recipe: Recipe, context: RunContext, start: StartingPoint) -> Facts:
    """Return the facts on which choices rest."""
    accuracy = None
    untrained = recipe.model.reset_head and start.other_teacher is None
    if recipe.finetune.distill is None and not untrained:
        placed = context.precision.place(on_cpu(start.teacher))
        scores = context.watched_scores(placed, placed)
        accuracy = scores.accuracy.top1.fraction if scores.accuracy else value_of(scores.headline)
    feasible = start.feasible
    target = feasible.target.fraction / feasible.largest if feasible.target else 1.0
    return Facts(
        len(context.splits.train),
        context.data.step_images,
        accuracy,
        bool(running_statistics(start.network)),
        min(1.0, target),
    )
