"""The values that a recipe leaves open, chosen for its images and its network before the first step."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from torch import nn

from edcompress.core.recipe.choices import WEAK, Facts, Mirroring, chosen, chosen_data, chosen_flip
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.scores import Scores, value_of
from edcompress.networks.modes import on_cpu
from edcompress.training.batchnorm import running_statistics
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint


def resolve_recipe(recipe: Recipe, context: RunContext, start: StartingPoint) -> tuple[Recipe, RunContext]:
    """Return the recipe with a value for every key that it leaves open, and the reasons in `chosen`, and the context with these values.

    How good the teacher is on held-out images decides what its soft labels are worth, and whether mirrored images train; it is measured
    only where one of them is open.
    """
    choices = chosen_data(recipe.data, len(context.splits.train))
    teacher = _Teacher(context, start, untrained=recipe.model.reset_head)
    if "data.flip" in recipe.open_keys and context.data.augment != "none":
        choices["data.flip"] = choice = chosen_flip(context.data, teacher.mirroring)
        context = replace(context, data=context.data.model_copy(update={"flip": choice.value}))
    recipe = recipe.with_data(context.data).with_values({}, {key: choice.why for key, choice in choices.items()})
    recipe = chosen(recipe, _facts(context, start, teacher.accuracy if recipe.finetune.distill is None else None))
    if context.ranks.is_main:
        for key, why in recipe.chosen.items():
            context.monitor.stage(f"chosen: {key} = {recipe.value_of(key)} ({why})")
    return recipe, context


class _Teacher:
    """What the network that gives the soft labels recognises of the held-out images; None all through where its classifier is new."""

    def __init__(self, context: RunContext, start: StartingPoint, *, untrained: bool) -> None:
        self._context, self._start = context, start
        self._new = untrained and start.other_teacher is None

    @cached_property
    def _network(self) -> nn.Module | None:
        return None if self._new else self._context.precision.place(on_cpu(self._start.teacher))

    @cached_property
    def _scores(self) -> Scores | None:
        return None if self._network is None else self._context.watched_scores(self._network, self._network)

    @property
    def accuracy(self) -> float | None:
        """Top-1, or the value of the recipe's metric where images have no single class."""
        if self._scores is None:
            return None
        return self._scores.accuracy.top1.fraction if self._scores.accuracy else value_of(self._scores.headline)

    @property
    def mirroring(self) -> Mirroring | None:
        """The images that are recognised as they are and mirrored; None where these are too few to tell, or have no single class."""
        network, scores = self._network, self._scores
        if network is None or scores is None or scores.accuracy is None or scores.accuracy.top1.fraction < WEAK:
            return None
        mirrored = self._context.watched_scores(network, lambda images: network(images.flip(-1))).accuracy
        assert mirrored is not None
        plain = scores.accuracy.top1
        return Mirroring(plain.correct, mirrored.top1.correct, plain.total)


def _facts(context: RunContext, start: StartingPoint, accuracy: float | None) -> Facts:
    """Return the facts on which choices rest."""
    feasible = start.feasible
    target = feasible.target.fraction / feasible.largest if feasible.target else 1.0
    return Facts(
        len(context.splits.train),
        context.data.step_images,
        accuracy,
        bool(running_statistics(start.network)),
        min(1.0, target),
    )
