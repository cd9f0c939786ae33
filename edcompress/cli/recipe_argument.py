"""The recipe that a command means, completed for its weights, and the processes that share its run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import weights_name
from edcompress.core.system.distributed import ProcessGroup, init_process_group


def recipe_and_ranks(
    recipe: str, overrides: Sequence[str] | None, weights: str | None, device: str
) -> tuple[Recipe, ProcessGroup]:
    """Return the checked recipe and the connected ranks; the first rank alone asks the source of weights by name."""
    if weights_name(weights) is None:
        return read_recipe(recipe, overrides or ()), init_process_group(device)
    ranks = init_process_group(device)
    return ranks.run_on_rank0(partial(read_recipe, recipe, overrides or (), weights)), ranks
