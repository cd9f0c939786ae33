"""The method compared with the published facts, and with the faults of the code that made the published numbers."""

from collections.abc import Callable

import pytest
import torch
from costs import PROPERTY, Chained, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from states import space_of
from torch import Generator, Tensor, nn

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.networks.registry import build
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.search import edropout
from edcompress.pruning.search.evolution import Evolution, Population

Mutation = Callable[[Tensor, Tensor, float, Generator], Tensor]
GENES = pytest.mark.parametrize("genes", ["channels", "widths"])
S, F, CR = 8, 0.9, 0.9


def published_size(network: nn.Module, *, outputs: bool) -> int:
    """Return D as the paper counts it, one gene per filter and not per coupled channel.

    A gene for every convolution filter, for every channel of a downsample batch norm, and for every input of a classifier layer
    (SqueezeNet's last one is a convolution); `outputs`: and for every class.
    """
    *body, head = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    genes = sum(layer.weight.shape[0 if isinstance(layer, nn.Conv2d) else 1] for layer in body)
    norms = [
        layer for name, layer in network.named_modules() if "downsample" in name and isinstance(layer, nn.BatchNorm2d)
    ]
    genes += sum(norm.num_features for norm in norms) + head.weight.shape[1]
    return genes + head.weight.shape[0] if outputs else genes


@pytest.mark.parametrize(
    ("arch", "stem", "outputs", "D"),
    [
        ("resnet18", "cifar", False, 6208),
        ("resnet34", "cifar", False, 9920),
        ("resnet50", "cifar", False, 32448),
        ("resnet101", "cifar", False, 58560),
        # these two run at 224x224, and their published sizes hold 102 genes for the classes of Flowers
        ("alexnet", "imagenet", True, 18662),
        ("squeezenet1_1", "imagenet", True, 3558),
    ],
)
def test_published_state_sizes_follow_from_the_papers_counting(arch: str, stem: str, outputs: bool, D: int) -> None:
    with torch.device("meta"):
        network = build(Model.model_validate({"arch": arch, "stem": stem, "num_classes": 102}))
    assert published_size(network, outputs=outputs) == D


def coded_mutate(s: Tensor, parents: Tensor, F: float, generator: Generator) -> Tensor:
    """Mutate as the authors coded it, inverted: genes with u_d < F stay s_{r1,d}; the others flip where r2 and r3 agree, and
    become 0 where they differ."""
    r1, r2, r3 = parents
    stays = torch.rand(s.shape, generator=generator) < F
    return torch.where(stays, s[r1], ~s[r1] & (s[r2] == s[r3]))


def grown_in_noise(mutate: Mutation, D: int, generations: int, seed: int) -> Tensor:
    """Return the population bool[S, D] after generations of selection by random energies, from a Bernoulli(0.5) start."""
    generator = Generator().manual_seed(seed)
    s = edropout.bernoulli_states(S, D, 0.5, generator)
    for _ in range(generations):
        v = mutate(s, edropout.distinct_parents(S, generator), F, generator)
        children = edropout.crossover(s, v, CR, generator)
        energies = torch.rand(2, S, generator=generator)
        s = torch.where(edropout.selection(*energies).unsqueeze(1), children, s)
    return s


def keep_rate(s: Tensor) -> tuple[float, float]:
    """Return the mean keep rate of bool[S, D], and its standard error: genes are independent of each other, members are not."""
    rates = s.float().mean(0)
    return rates.mean().item(), (rates.std() / len(rates) ** 0.5).item()


@pytest.mark.parametrize("seed", range(3))
def test_a_neutral_population_keeps_its_mean_keep_rate(seed: int) -> None:
    mean, error = keep_rate(grown_in_noise(edropout.mutate, D=5000, generations=250, seed=seed))
    assert error < 0.0072  # 0.5 / sqrt(5000), where all members are one state
    assert abs(mean - 0.5) < 3.5 * error  # so less than 0.025; 0.40 is 14 standard errors away


def test_as_coded_it_drifts_to_about_two_fifths_and_does_not_converge() -> None:
    s = grown_in_noise(coded_mutate, D=5000, generations=250, seed=0)
    mean, error = keep_rate(s)
    assert mean == pytest.approx(0.40, abs=0.025)  # it goes up and down with the parents that were drawn, by about 0.01
    assert abs(mean - 0.5) > 14 * error
    ours = grown_in_noise(edropout.mutate, D=5000, generations=250, seed=0)
    assert edropout.diversity(ours) < 0.1
    assert edropout.diversity(s) > 0.25


def test_one_state_mutates_as_coded_and_not_as_published() -> None:
    D, generator = 20_000, Generator().manual_seed(0)
    s = edropout.bernoulli_states(1, D, 0.5, generator).expand(S, D)
    parents = edropout.distinct_parents(S, generator)
    coded = edropout.crossover(s, coded_mutate(s, parents, F, generator), CR, generator)
    # (1 - F) CR = 9 % of 160000 genes, with a standard deviation of 0.0007
    assert (coded ^ s).float().mean().item() == pytest.approx(0.09, abs=0.003)
    assert torch.equal(edropout.crossover(s, edropout.mutate(s, parents, F, generator), CR, generator), s)


def test_the_preset_of_the_paper_is_as_published() -> None:
    recipe = read_recipe("digits", ["preset=paper"])
    search = recipe.search
    assert (search.method, search.genes, search.init) == ("edropout", "channels", "bernoulli")
    assert (search.population, search.mutation_factor, search.crossover_rate, search.keep_probability) == (
        S,
        F,
        CR,
        0.5,
    )
    assert (search.evolve_every, search.score_batch, search.parent_energies) == (1, None, "stored")
    assert (search.energy, search.anneal) == ("margin", 0.0)
    assert (search.epochs, recipe.finetune.epochs) == (100, 100)
    assert (recipe.constraints.round_to, recipe.constraints.min_ratio, recipe.constraints.min_channels) == (1, 0.0, 1)
    fit = recipe.finetune
    assert (fit.optimizer, fit.lr, fit.schedule, fit.step_epochs, fit.step_gamma) == ("adadelta", 1.0, "step", 50, 0.1)
    assert (fit.label_smoothing, fit.distill) == (0.0, 0.0)


WIDTHS = (12, 8, 16)
RANKS = torch.cat([torch.arange(n) / n for n in WIDTHS])


def evolution(genes: str, target: Target | None = None) -> Evolution:
    feasible = FeasibleStates(
        space_of(*WIDTHS), Chained([1, 2, 1], WIDTHS), target, Constraints(round_to=1, min_ratio=0.0)
    )
    return Evolution(Search.model_validate({"genes": genes, "population": S}), feasible, Generator().manual_seed(0))


def converged_population(shares: Tensor) -> Population:
    """Return S times one random state of at least one channel per group, with shares [G]."""
    state = torch.rand(sum(WIDTHS), generator=Generator().manual_seed(3)) < 0.5
    state[[0, 12, 20]] = True
    return Population(state.expand(S, -1), shares.double().expand(S, -1))


@GENES
def test_a_converged_population_breeds_only_itself(genes: str) -> None:
    moves, population = evolution(genes), converged_population(torch.tensor([0.3, 0.55, 0.9]))
    for _ in range(5):
        children = moves.children(population)
        assert torch.equal(children.states, population.states)
        assert torch.equal(children.shares, population.shares)
        population = moves.repair(children, RANKS, None)
        assert edropout.diversity(population.states) == 0.0


def test_equal_shares_give_one_state_under_every_budget() -> None:
    moves, population = evolution("widths"), converged_population(torch.tensor([0.3, 0.55, 0.9]))
    for budget in (1.0, 0.8, 0.5, 0.2):
        parents = moves.repair(population, RANKS, budget)
        children = moves.repair(moves.children(parents), RANKS, budget)
        assert edropout.diversity(torch.cat([parents.states, children.states])) == 0.0
        population, _ = moves.select(parents, children, torch.rand(2 * S, generator=Generator().manual_seed(1)))


def repaired_twice(genes: str, data: st.DataObject, *, unlimited: bool) -> tuple[Tensor, Tensor]:
    """Return the states bool[S, D] of a random wish after one repair and after a second one at the same budget and ranks."""
    (feasible, _), budget = data.draw(cases())
    generator = Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    groups, D = len(feasible.channels), int(feasible.channels.sum())
    moves = Evolution(Search.model_validate({"genes": genes, "population": 4}), feasible, generator)
    ranks = torch.cat([torch.randperm(int(n), generator=generator) / n for n in feasible.channels])
    p = data.draw(st.floats(0, 1))
    wish = Population(torch.rand(4, D, generator=generator) < p, torch.rand(4, groups, generator=generator).double())
    once = moves.repair(wish, ranks, None if unlimited else budget)
    return once.states, moves.repair(once, ranks, None if unlimited else budget).states


@GENES
@given(data=st.data())
@settings(PROPERTY)
def test_repair_is_idempotent_without_a_budget(genes: str, data: st.DataObject) -> None:
    once, twice = repaired_twice(genes, data, unlimited=True)
    assert torch.equal(once, twice)


@given(data=st.data())
@settings(PROPERTY)
def test_repair_of_widths_is_idempotent_under_a_budget(data: st.DataObject) -> None:
    once, twice = repaired_twice("widths", data, unlimited=False)
    assert torch.equal(once, twice)


@given(data=st.data())
@settings(PROPERTY)
def test_repair_of_channels_is_idempotent_under_a_budget(data: st.DataObject) -> None:
    once, twice = repaired_twice("channels", data, unlimited=False)
    assert torch.equal(once, twice)


@given(data=st.data())
@settings(PROPERTY)
def test_a_feasible_state_loses_nothing_in_repair(data: st.DataObject) -> None:
    once, twice = repaired_twice("channels", data, unlimited=False)
    assert not (once & ~twice).any()
