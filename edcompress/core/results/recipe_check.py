"""Schema of the result of `check`: what a run of a recipe will do, and what keeps it from starting."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from edcompress.core.frozen import Value
from edcompress.core.results.measures import Size


class ImageCounts(Value):
    """Images of a recipe's three splits, and its classes."""

    classes: int
    train: int
    search: int
    test: int


class GroupCounts(Value):
    """Groups of channels that can be removed, those that are locked, and the channels of the free ones."""

    free: int
    locked: int
    channels: int


class Schedule(Value):
    """Epochs, steps and generations of a run.

    Attributes:
        batch_size: Images of a training step.
        steps_per_epoch: Training steps of an epoch.
        search_epochs: Epochs under the search; 0 for methods that choose once.
        finetune_epochs: Epochs after surgery.
        generations: Generations of the search; 0 for methods that choose once.
        trials: Networks that are pruned one after the other: 1, or at most those that target.max_top1_drop tries.
    """

    batch_size: int
    steps_per_epoch: int
    search_epochs: int
    finetune_epochs: int
    generations: int
    trials: int = 1


class Expectation(Value):
    """What a run takes, by a measurement of some seconds: time on this machine as it is now, and memory at its peak."""

    seconds: float
    memory_bytes: int


class RecipeCheck(Value):
    """The result of `check` for one recipe.

    Attributes:
        recipe: Its file or name.
        faults: What keeps a run from starting; empty if it can start.
        warnings: Remarks on what will probably go wrong.
        network: The architecture or the factory; None for a recipe that is not valid.
        dataset: The data set; None for a recipe that is not valid.
        weights: The weights that were tried; None for random ones.
        images: None where the images cannot be opened.
        size: None where the network cannot be built.
        groups: None where the network cannot be built.
        schedule: None where images or network are missing.
        expected: None where it was not measured.
        chosen: Values of keys that the recipe leaves open, with the reasons.
    """

    recipe: str
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    network: str | None = None
    dataset: str | None = None
    weights: str | None = None
    images: ImageCounts | None = None
    size: Size | None = None
    groups: GroupCounts | None = None
    schedule: Schedule | None = None
    expected: Expectation | None = None
    chosen: Mapping[str, str] = Field(default_factory=dict)
