"""A search method is one file: dropped into the package it is a value of `search.method`, with keys of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods import add_method
from zoo import ZOO, images, randomised

from edcompress.core import registry
from edcompress.core.errors import RecipeError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.search import METHODS
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.search.method import OneShotMethod, SearchProblem, TrainingMethod, find_method
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.precision import Precision

FIRST = '''"""First: every group keeps its first channels."""

from edcompress.core.frozen import Section
from edcompress.pruning.search.method import OneShotMethod


class Options(Section):
    share: float = 0.5


class First(OneShotMethod):
    options = Options

    def choose_state(self, problem):
        state, share = problem.space.full_state(), Options(**problem.search.options).share
        for group, part in problem.space.slices():
            state[part][max(1, int(share * group.channels)) :] = False
        return state


METHOD = First()
'''


@pytest.fixture
def first_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of methods with one more file, first.py."""
    add_method("first", FIRST, tmp_path, monkeypatch)


@pytest.mark.usefixtures("first_method")
def test_a_method_is_added_by_one_file() -> None:
    search = read_recipe("digits", ["search.method=first", "search.options.share=0.3"]).search
    network = randomised(ZOO["chain"].network())
    space = trace_space(network, images(2))
    feasible = FeasibleStates(space, CostModel(space, network, images(2)), None, Constraints(round_to=1, min_ratio=0.0))
    problem = SearchProblem(network, space, feasible, search, Precision("fp32", torch.device("cpu")))
    method = find_method(search.method)
    assert isinstance(method, OneShotMethod)
    assert not search.trains
    assert space.widths == (4, 6)
    assert method.choose_state(problem).int().tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


@pytest.mark.usefixtures("first_method")
def test_keys_of_a_method_are_checked_with_the_recipe() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits", ["search.method=first", "search.options={share: much, order: 1}", "search.epochs=-1"])
    text = str(caught.value)
    assert "search.options.share: give a number (got 'much')" in text
    assert "search.options.order: unknown key (got 1)" in text
    assert "search.epochs: give a whole number of at least 0 (got -1)" in text


@pytest.mark.parametrize("name", registry.names_in(METHODS))
def test_every_method_has_a_kind_and_a_description(name: str) -> None:
    method = find_method(name)
    assert isinstance(method, TrainingMethod if method.trains else OneShotMethod)
    title, _, about = (registry.load(METHODS, name).__doc__ or "").partition(": ")
    assert title.lower().replace(" ", "_") == name
    assert about.endswith(".")


def test_methods_are_found_without_torch() -> None:
    code = (
        "import sys\n"
        "from edcompress.core import registry\n"
        "from edcompress.core.recipe.search import METHODS\n"
        "print([registry.load(METHODS, name).METHOD.trains for name in registry.names_in(METHODS)], 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("] False\n")
    assert ended.stdout.count("True") == 2  # edropout and gradual_magnitude train


@pytest.mark.parametrize("name", [name for name in registry.names_in(METHODS) if name != "plan"])
def test_every_method_ends_within_the_target(name: str) -> None:
    network = randomised(ZOO["residual"].network())
    space, batch = trace_space(network, images(2)), (images(8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    costs, constraints = CostModel(space, network, images(2)), Constraints(round_to=1, min_ratio=0.0)
    feasible = FeasibleStates(space, costs, Target(macs=0.5), constraints)
    search = read_recipe("digits", [f"search.method={name}"]).search.for_batches_of(8)
    problem = SearchProblem(
        network, space, feasible, search, Precision("fp32", torch.device("cpu")), batches=lambda: [batch]
    )
    method = find_method(name)
    if isinstance(method, OneShotMethod):
        state = method.choose_state(problem)
    else:
        assert isinstance(method, TrainingMethod)
        regime = method.make_regime(problem)
        regime.prepare(*batch, 0.0)
        state = regime.finish(*batch)
    assert 0.3 < feasible.share(feasible.widths(state)).item() <= 0.5
