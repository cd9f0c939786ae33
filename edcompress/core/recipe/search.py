"""Recipe section: the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from edcompress.core import registry
from edcompress.core.frozen import Fraction, Section, Unit

METHODS = "pruning.search.methods"
"""The package of search methods, one module each."""

TRAINED_PER_SCORED = 16
"""Images trained on per image that scores states, where a recipe does not set `evolve_every`: a step then costs about a third more."""

FEWEST_GENERATIONS = 20
"""Generations that a search needs before the budget reaches the target."""

ANNEAL, MOST_ANNEALED = 0.45, 0.85
"""Shares of the search in which the budget falls: for each halving where a recipe does not set `anneal`, and at most in all."""

FEWEST_STEPS = math.ceil(FEWEST_GENERATIONS / MOST_ANNEALED)
"""Training steps that a search needs for as many generations, one per step."""

Energy = Literal["margin", "normalised", "cross_entropy"]


class NoOptions(Section):
    """The options of a method, loss or metric that has none."""


class MethodTraits(Protocol):
    """Traits of a search method that recipes depend on; see `edcompress.pruning.search.method.SearchMethod`."""

    options: type[Section]
    trains: bool
    takes_plan: bool


class Search(Section):
    """The search for the channels to remove."""

    method: Annotated[str, registry.one_of(METHODS)] = Field(
        "edropout",
        description="edropout, or a method to compare it with: gradual_magnitude also tightens the budget over the search epochs; the"
        " others choose once and spend the search epochs on fine-tuning (the global ones and lamp choose widths, too)",
    )
    options: Mapping[str, Any] = Field(
        {}, validate_default=True, description="keys that only this method has; the shipped methods have none"
    )
    plan: Path | None = Field(None, description="plan only: a plan.json made for this network")
    epochs: int | None = Field(
        None,
        ge=0,
        description="training epochs under the search; null: a quarter of all epochs, more where that gives fewer than "
        f"{FEWEST_STEPS} steps",
    )
    population: int = Field(8, ge=4, le=256, description="S, states that compete")
    genes: Literal["widths", "channels"] = Field(
        "widths",
        description="what evolves: the widths of groups, whose channels are chosen by importance, or channel bits (the paper)",
    )
    init: Literal["importance", "bernoulli"] = Field(
        "importance",
        description="how the first channel bits are chosen; where bits evolve, also which channels the repair drops and takes back: the"
        " least and the most important, or random ones",
    )
    keep_probability: Fraction = Field(
        0.5, description="p of the Bernoulli start; without a target, the share of channels that is kept"
    )
    mutation_factor: Unit = Field(0.9, description="F of the evolution of channel bits")
    crossover_rate: Unit = Field(0.9, description="CR of either evolution")
    width_factor: float = Field(0.3, ge=0.0, le=2.0, description="F of the evolution of widths, on their logarithms")
    width_prior: Unit = Field(
        0.0,
        description="the first widths are proportional to (parameters / cost of the group) to this power, so that more channels are kept"
        " where they are cheap; 0: the same share of every group",
    )
    width_spread: float = Field(
        0.4, ge=0.0, le=2.0, description="standard deviation of the logarithm of the first widths"
    )
    width_noise: float = Field(
        0.1,
        ge=0.0,
        le=2.0,
        description="standard deviation of the noise on the logarithm of a child's widths; it falls to 0 as the budget reaches the target",
    )
    energy: Energy = Field(
        "margin",
        description="what states are compared by: the best wrong logit minus the right one, the same over the spread of the logits, or the"
        " loss",
    )
    evolve_every: int | None = Field(
        None,
        ge=1,
        description="training steps per generation; null: as many as train on 16 images per image that scores"
        " (with `score_batch` 32, 4 steps of 128 images or 16 of 32), fewer where the search would have fewer than "
        f"{FEWEST_GENERATIONS} generations before the budget is reached",
    )
    score_batch: int | None = Field(
        32, ge=2, description="how many images of a training batch score states, at most all; null: all, as published"
    )
    parent_energies: Literal["rescored", "stored"] = Field(
        "rescored",
        description="a child is compared with its parent's energy on the same batch, or with the one stored when the parent was"
        " created (as published: half the scoring, but of older weights)",
    )
    anneal: float | None = Field(
        None,
        ge=0.0,
        le=1000.0,
        description=f"share of the search that each halving of the budget takes, at most {MOST_ANNEALED:g} in all; 0: at once; null: "
        f"{ANNEAL:g}, more in a short search",
    )

    @field_validator("options")
    @classmethod
    def _fit_the_method(cls, options: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        if method := info.data.get("method"):
            _traits(method).options.model_validate(options)
        return options

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if self.trains and self.epochs == 0:
            raise ValueError(
                f"method {self.method} needs epochs of at least 1; for a one-shot ranking take method magnitude"
            )
        if self.takes_plan != (self.plan is not None):
            raise ValueError("method plan and a file in plan go together; give both or neither")
        return self

    @property
    def trains(self) -> bool:
        """Whether the method trains the network while it searches; the others choose once."""
        return _traits(self.method).trains

    @property
    def takes_plan(self) -> bool:
        """Whether the channels are those of the file `plan`."""
        return _traits(self.method).takes_plan

    def scored(self, batch: int) -> int:
        """Return how many of the `batch` images of a step score states."""
        return min(self.score_batch or batch, batch)

    @property
    def annealing(self) -> float:
        """`anneal`, or its usual value where it is still to be chosen."""
        return ANNEAL if self.anneal is None else self.anneal

    @property
    def length(self) -> int:
        """The epochs of the search, 4 where they are still to be chosen."""
        return 4 if self.epochs is None else self.epochs

    @property
    def period(self) -> int:
        """Training steps per generation, of a section that `for_batches_of` returned."""
        assert self.evolve_every is not None
        return self.evolve_every

    def for_batches_of(self, batch: int) -> Self:
        """Return the section with a number for `evolve_every`: its own, or the one that suits steps of `batch` images."""
        steps = self.evolve_every or max(1, round(TRAINED_PER_SCORED * self.scored(batch) / batch))
        return self.model_copy(update={"evolve_every": steps})


def _traits(method: str) -> MethodTraits:
    traits: MethodTraits = registry.load(METHODS, method).METHOD
    return traits
