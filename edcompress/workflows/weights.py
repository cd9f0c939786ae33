"""The weights that a verb gets: a file, a finished run, or a name, whose file is fetched first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edcompress.core.plain_text import short_repr
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import NOTHING, SOURCES, Offer, WeightsName, fill, weights_name
from edcompress.core.registry import load
from edcompress.core.results.report import WeightsSource
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.monitor import Monitor
from edcompress.networks.named_weights import FetchedWeights, NamedWeights
from edcompress.runs.folder import RunFolder, path_of


@dataclass(frozen=True)
class GivenWeights:
    """Weights on this machine.

    Attributes:
        path: The file, or the folder of a run.
        name: What reports call them.
        source: Where they came from, for weights by name.
        offer: The recipe keys that follow from them.
    """

    path: Path
    name: str
    source: WeightsSource | None = None
    offer: Offer = NOTHING

    def completed(self, explicit: dict[str, Any]) -> Recipe:
        """Return the recipe of these keys, with those that follow from the weights for the others."""
        return check(fill(explicit, self.offer.values), f"the recipe, completed for {self.name}")

    def warn_of_differences(self, data: dict[str, Any], monitor: Monitor) -> None:
        """Warn of keys of `data` in which a recipe differs from what the weights were trained on, and of the notes."""
        offered = self.offer.values.get("data", {})
        differ = [
            f"data.{key} is {short_repr(data[key])}, and {short_repr(value)} at the source"
            for key, value in offered.items()
            if data.get(key) != value
        ]
        for note in self.offer.notes:
            monitor.warning(f"{self.name}: {note}")
        if differ:
            monitor.warning(f"{self.name}: the recipe prepares images differently: {'; '.join(differ)}")


Weights = RunFolder | str | Path | GivenWeights
"""A run folder, a path, the name of weights, or what `open_weights` made of one of them."""


def open_weights(weights: Weights, monitor: Monitor, ranks: ProcessGroup = ALONE) -> GivenWeights:
    """Return the weights, fetched by the first rank alone if they are given by name.

    Args:
        weights: A run folder, a path, or a name.
        monitor: Shows what is fetched.
        ranks: The processes that share the work.

    Raises:
        WeightsError: The name is unknown, or its file cannot be had or is not the one of the checksum.
    """
    if isinstance(weights, GivenWeights):
        return weights
    if (name := weights_name(weights)) is None:
        path = path_of(weights)
        return GivenWeights(path, path.name)
    offer, fetched = ranks.run_on_rank0(partial(_fetch, name, monitor))
    if not fetched.path.exists():  # a further machine, whose ranks do not see the cache of the first one's
        _, fetched = _fetch(name, monitor)
    return GivenWeights(fetched.path, name.shown, fetched.source, offer)


def _fetch(name: WeightsName, monitor: Monitor) -> tuple[Offer, FetchedWeights]:
    """Return what weights offer to a recipe, and their file."""
    found: NamedWeights = load(SOURCES, name.source).find(name)
    return found.offer, found.fetch(monitor)
