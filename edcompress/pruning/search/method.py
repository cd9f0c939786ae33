"""The interface of search methods.

A method is one module of `edcompress.pruning.search.methods`, which sets METHOD. Its file name is its name in `search.method`. Recipes are
checked against methods without loading torch, so that method modules import torch, and all that needs it, inside their functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edcompress.core import registry
from edcompress.core.frozen import Section
from edcompress.core.recipe.search import METHODS, NoOptions, Search
from edcompress.core.system.distributed import ALONE, ProcessGroup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edcompress.pruning.cost.budget import FeasibleStates
    from edcompress.pruning.search.regime import SearchRegime
    from edcompress.pruning.space.space import PruningSpace
    from edcompress.training.objective import Criterion
    from edcompress.training.precision import Precision

Figures = dict[str, float | int | bool | None]
"""What is logged of one generation, by name."""


@dataclass(frozen=True)
class SearchProblem:
    """A network to search, its pruning space with the feasible states, and the settings of the recipe.

    Attributes:
        network: on the CPU for a one-shot method, on the device of `precision` for one that trains it.
        search: has a number for `evolve_every`.
        batches: opens the training batches (images [N, C, H, W], labels int64[N]) of the first epoch.
        log: takes the figures of each generation.
        criterion: the loss of outputs and labels; None: the cross-entropy of logits and classes.
    """

    network: nn.Module
    space: PruningSpace
    feasible: FeasibleStates
    search: Search
    precision: Precision
    seed: int = 0
    ranks: ProcessGroup = ALONE
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] = tuple
    log: Callable[[Figures], None] = lambda _: None
    criterion: Criterion | None = None


class SearchMethod(ABC):
    """Base of all search methods; a method is a `TrainingMethod` or a `OneShotMethod`.

    Attributes:
        options: the section that validates `search.options`, the keys that only this method has.
        trains: whether the method trains the network while it searches.
        takes_plan: whether the channels come from the file `search.plan`.
    """

    options: ClassVar[type[Section]] = NoOptions
    trains: ClassVar[bool]
    takes_plan: ClassVar[bool] = False

    def check(self, problem: SearchProblem) -> None:  # noqa: B027
        """Raise an EdcompressError where the method cannot solve the problem; called before any compute."""


class TrainingMethod(SearchMethod):
    """A method that trains the network for `search.epochs` epochs while it searches."""

    trains = True

    @abstractmethod
    def make_regime(self, problem: SearchProblem) -> SearchRegime:
        """Return the training regime that searches; it changes the weights of `problem.network`."""


class OneShotMethod(SearchMethod):
    """A method that chooses the channels once; the search epochs are spent on fine-tuning."""

    trains = False

    @abstractmethod
    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D], within the target; the network stays as it is."""


def find_method(name: str) -> SearchMethod:
    """Return the search method that a recipe calls `name`.

    Raises:
        ValueError: there is none; the message lists the methods.
    """
    method: SearchMethod = registry.load(METHODS, name).METHOD
    return method
