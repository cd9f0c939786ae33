"""Values that a recipe leaves open, chosen from the images and the network, each with the reason.

The rules rest on the measurements in docs/method-notes.md; docs/first-try.md has what they lead to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edcompress.core.recipe.data import Data
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.search import ANNEAL, FEWEST_GENERATIONS, FEWEST_STEPS, MOST_ANNEALED, Search
from edcompress.core.recipe.training import Finetune, Optimizer

_BATCHES = ((500, 16), (4000, 32), (12000, 64))
"""Numbers of training images, and the images of a step for fewer than that."""

LARGEST_BATCH = 128

PHOTO_SIZE, SMALL_SIZE = 64, 24
"""Pixels from which images are augmented as photos are, and as small images are."""

STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 800, 8, 40
"""Training steps to aim at in all, and bounds on the epochs that make them."""

STRONG, WEAK = 0.6, 0.3
"""Accuracies, on held-out images, of a dense network whose soft labels are worth most of the loss, and half of it."""

MOST_LOST = 0.2
"""The share of the held-out images it recognises that a network may lose when they are mirrored, where mirrored images train it.

The held-out images have mostly trained it, and their mirror images have not: it loses some where their classes stay the same too.
"""

_RATES: dict[Optimizer, tuple[float, float]] = {"adamw": (1e-3, 3e-4), "sgd": (0.02, 5e-3), "adadelta": (1.0, 1.0)}
"""Peak rates for networks with and without batch norm."""


@dataclass(frozen=True)
class Facts:
    """What the choices rest on.

    Attributes:
        images: Number of training images.
        batch: Images per step.
        accuracy: Top-1 of the teacher, usually the dense network, on the held-out images; None where its classifier is new.
        norm: Whether the network has batch norm.
        target: Share of the dense network's cost to keep; 1 without a target.
    """

    images: int
    batch: int
    accuracy: float | None
    norm: bool = True
    target: float = 1.0

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return max(1, math.ceil(self.images / self.batch))


@dataclass(frozen=True)
class Mirroring:
    """How many of `total` held-out images the teacher recognises, as they are (`plain`) and mirrored."""

    plain: int
    mirrored: int
    total: int

    @property
    def harmless(self) -> bool:
        """Whether few enough of the images that it recognises are lost for their classes to stay the same."""
        return self.mirrored >= (1 - MOST_LOST) * self.plain


@dataclass(frozen=True)
class Choice:
    """A value for a key, and the reason for it."""

    value: Any
    why: str


Choices = dict[str, Choice]
"""By dotted key of the recipe."""


def chosen_data(data: Data, images: int) -> Choices:
    """Choose the batch size and the augmentation, where they are open, for so many training images."""
    found: Choices = {}
    if data.batch_size is None:
        size = next((size for most, size in _BATCHES if images < most), LARGEST_BATCH)
        found["data.batch_size"] = Choice(size, f"for {images} training images")
    if data.augment is None:
        found["data.augment"] = Choice(*_augmentation(data))
    return found


def chosen_flip(data: Data, mirroring: Mirroring | None) -> Choice:
    """Choose whether training images are mirrored; `mirroring` is None where the teacher is too weak to tell."""
    if mirroring is None:
        usual = data.augment == "resized_crop"
        return Choice(usual, f"usual for data.augment {data.augment}; the dense network is too weak to tell")
    plain, mirrored = (f"{count / mirroring.total:.1%}" for count in (mirroring.plain, mirroring.mirrored))
    why = f"the dense network recognises {mirrored} of mirrored held-out images and {plain} of others"
    return Choice(mirroring.harmless, why)


def _augmentation(data: Data) -> tuple[str, str]:
    if data.transform:
        return "none", "data.transform takes its place"
    if data.dataset in ("factory", "memory"):
        return "none", "your own data sets may change their training images themselves; set it if they do not"
    side = min(data.height_width)
    if side >= PHOTO_SIZE:
        return "resized_crop", f"images of {side} pixels are taken for photos"
    if side >= SMALL_SIZE:
        return "crop", f"images of {side} pixels are small"
    return "none", f"images of {side} pixels are too small to crop"


def chosen(recipe: Recipe, facts: Facts) -> Recipe:
    """Return the recipe with a value for every key of `search` and `finetune` that it leaves open, and the reasons in `chosen`."""
    found = {**_epochs(recipe, facts), **_optimisation(recipe.finetune, facts), **_soft_labels(recipe.finetune, facts)}
    recipe = _with(recipe, found)
    return _with(recipe, _generations(recipe.search, facts))


def _with(recipe: Recipe, choices: Choices) -> Recipe:
    reasons = {key: choice.why for key, choice in choices.items()}
    return recipe.with_values({key: choice.value for key, choice in choices.items()}, reasons)


def _epochs(recipe: Recipe, facts: Facts) -> Choices:
    """Choose the epochs of search and fine-tuning."""
    search, finetune = recipe.search.epochs, recipe.finetune.epochs
    total = min(max(math.ceil(STEPS / facts.steps), FEWEST_EPOCHS), MOST_EPOCHS)
    if finetune is not None:
        total = math.ceil(finetune / 3 * 4)
    found: Choices = {}
    if search is None:
        search = max(1, round(total / 4), math.ceil(FEWEST_STEPS / facts.steps))
        why = f"a quarter of all epochs, at least {FEWEST_STEPS} steps: {search * facts.steps} steps"
        found["search.epochs"] = Choice(search, why)
    if finetune is None:
        why = f"{total} epochs in all of {facts.steps} steps each, for {facts.images} training images"
        found["finetune.epochs"] = Choice(max(1, total - search), why)
    return found


def _optimisation(finetune: Finetune, facts: Facts) -> Choices:
    """Choose the optimizer, its rate, the weight decay and the warm-up."""
    found: Choices = {}
    optimizer = finetune.optimizer
    if optimizer is None and finetune.lr is None:
        optimizer = "adamw"
        found["finetune.optimizer"] = Choice(optimizer, "recovers well on few images, however the network was trained")
    elif optimizer is None:
        optimizer = finetune.config.optimizer
        found["finetune.optimizer"] = Choice(optimizer, f"suits finetune.lr {finetune.lr:g}")
    if finetune.lr is None:
        rate = _RATES[optimizer][0 if facts.norm else 1]
        found["finetune.lr"] = Choice(
            rate, f"for {optimizer} and a network with{'' if facts.norm else 'out'} batch norm"
        )
    config = finetune.model_copy(update={"optimizer": optimizer}).config
    if finetune.weight_decay is None:
        found["finetune.weight_decay"] = Choice(config.weight_decay, f"for {optimizer}")
    if finetune.warmup is None:
        found["finetune.warmup"] = Choice(config.warmup, "the first steps are of untried gradients")
    return found


def _soft_labels(finetune: Finetune, facts: Facts) -> Choices:
    """Choose the weight of the dense network's soft labels."""
    if finetune.distill is not None:
        return {}
    if facts.accuracy is None:
        return {"finetune.distill": Choice(0.0, "the dense network's classifier is new and has nothing to teach")}
    weight = 0.9 if facts.accuracy >= STRONG else 0.5 if facts.accuracy >= WEAK else 0.0
    return {"finetune.distill": Choice(weight, f"its teacher has {facts.accuracy:.1%} on the held-out images")}


def _generations(search: Search, facts: Facts) -> Choices:
    """Choose how often states are scored and how fast the budget falls, so that there are enough generations on the way.

    A search that is too short even for one generation per step is replaced by a ranking, unless `evolve_every` is given.
    """
    if not search.trains or not search.epochs or facts.target >= 1.0:
        return {"search.anneal": Choice(ANNEAL, "the default")} if search.anneal is None else {}
    steps, halvings = search.epochs * facts.steps, math.log2(1 / facts.target)
    usual = search.for_batches_of(facts.batch).period
    found: Choices = {}
    anneal = search.anneal
    if anneal is None:
        needed = min(FEWEST_GENERATIONS * usual / steps, MOST_ANNEALED) / halvings
        anneal = max(ANNEAL, math.ceil(100 * needed) / 100)
        slower = "the budget falls more slowly than usual, for more generations"
        found["search.anneal"] = Choice(anneal, slower if anneal > ANNEAL else "the default")
    falling = min(MOST_ANNEALED, anneal * halvings) * steps
    if search.evolve_every is None:
        if anneal > 0 and falling < FEWEST_GENERATIONS:
            why = f"{steps} steps of search are too few for {FEWEST_GENERATIONS} generations: a ranking takes its place"
            return {**found, "search.method": Choice("magnitude", why), "search.evolve_every": Choice(1, "not used")}
        period = min(usual, max(1, int(falling / FEWEST_GENERATIONS))) if anneal > 0 else usual
        found["search.evolve_every"] = Choice(
            period, f"{int(falling / period)} generations before the budget is reached"
        )
    return found
