import pytest
import torch
from costs import Priced, Scripted
from states import space_of
from torch import Generator, Tensor

from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.search.evolution import Evolution, Population

WIDTHS = (12, 8)
RANKS = torch.cat([torch.arange(n) / n for n in WIDTHS])  # the last channel of a group matters most


def evolution(seed: int = 0, target: Target | None = None, **search: object) -> Evolution:
    feasible = FeasibleStates(
        space_of(*WIDTHS), Scripted([1.0, 1.0], WIDTHS), target, Constraints(round_to=1, min_ratio=0.0)
    )
    return Evolution(Search.model_validate(search), feasible, Generator().manual_seed(seed))


def same(a: Population, b: Population) -> bool:
    return torch.equal(a.states, b.states) and torch.equal(a.shares, b.shares)


GENES = pytest.mark.parametrize("genes", ["channels", "widths"])


@GENES
@pytest.mark.parametrize("init", ["bernoulli", "importance"])
def test_the_same_seed_gives_the_same_population(genes: str, init: str) -> None:
    def grown(seed: int) -> Population:
        moves = evolution(seed, genes=genes, init=init)
        population = moves.start(RANKS, 2, 0.6)
        for _ in range(3):
            children = moves.repair(moves.children(population), RANKS, 0.6)
            population, _ = moves.select(population, children, torch.arange(16.0) % 3)
        return population

    assert same(grown(0), grown(0))
    assert not same(grown(0), grown(1))


@GENES
def test_every_member_is_feasible_and_uses_the_budget(genes: str) -> None:
    moves = evolution(genes=genes, target=Target(channels=0.5))
    population = moves.start(RANKS, 2, 0.5)
    for _ in range(4):
        children = moves.repair(moves.children(population), RANKS, 0.5)
        assert (children.states.sum(1) == 10).all()  # 0.5 of 20 channels at a price of one each
        population, _ = moves.select(population, children, torch.zeros(16))


def test_the_importance_start_is_the_ranking_and_variations_of_it() -> None:
    population = evolution(init="importance", keep_probability=0.5).start(RANKS, 2, None)
    # the first member wishes for half of each group, 6 and 4, and keeps the most important
    assert population.states[0].tolist() == [False] * 6 + [True] * 6 + [False] * 4 + [True] * 4
    assert population.shares[0].tolist() == [0.5, 0.5]
    assert len({tuple(state.tolist()) for state in population.states}) > 1
    spread = (population.shares[1:] / 0.5).log()
    assert 0.2 < spread.std().item() < 0.7  # width_spread is 0.4


def test_the_first_widths_are_larger_where_channels_are_cheap() -> None:
    costs = Priced([], WIDTHS)
    feasible = FeasibleStates(space_of(*WIDTHS), costs, Target(macs=0.5), Constraints(round_to=1, min_ratio=0.0))

    def first_member(prior: float) -> Tensor:
        search = Search(width_prior=prior, keep_probability=0.5)
        return Evolution(search, feasible, Generator().manual_seed(0)).start(RANKS, 2, 0.5).shares[0]

    assert first_member(0.0).tolist() == [0.5, 0.5]
    assert first_member(0.5).tolist() == pytest.approx([0.5 * 0.5**0.5, 0.5 * 2**0.5])


def test_the_bernoulli_start_of_the_paper_is_not_changed() -> None:
    moves = evolution(genes="channels", init="bernoulli", population=64)
    states = moves.start(RANKS, 2, None).states
    assert 0.4 < states.float().mean().item() < 0.6
    assert len(states.unique(dim=0)) == 64


def test_a_feasible_state_is_not_repaired() -> None:
    moves = evolution(genes="channels")
    states = torch.rand(8, 20, generator=Generator().manual_seed(5)) < 0.5
    states[:, [0, 12]] = True  # one channel per group at least
    assert torch.equal(moves.repair(Population(states, torch.zeros(8, 2)), RANKS, None).states, states)


def test_repair_drops_only_kept_channels_and_adds_only_dropped_ones() -> None:
    moves = evolution(genes="channels")
    states = torch.rand(8, 20, generator=Generator().manual_seed(6)) < 0.6
    fewer = moves.repair(Population(states, torch.zeros(8, 2)), RANKS, 0.25).states
    more = moves.repair(Population(states, torch.zeros(8, 2)), RANKS, 0.95).states
    floor = torch.zeros(8, 20, dtype=torch.bool)
    for part in (slice(0, 12), slice(12, 20)):  # a group with no wished channel keeps one
        floor[:, part] |= ~states[:, part].any(1, keepdim=True)
    assert not (fewer & ~states & ~floor).any()
    assert not (states & ~more).any()


@pytest.mark.parametrize(("init", "ranked"), [("importance", True), ("bernoulli", False)])
def test_a_tightening_budget_drops_channel_bits_by_importance_or_at_random(init: str, ranked: bool) -> None:
    moves = evolution(genes="channels", init=init)
    whole = moves.start(RANKS, 2, 1.0)
    assert whole.states.all()  # the first budget removes nothing, whatever the first bits
    half = moves.repair(whole, RANKS, 0.5).states
    most_important = torch.tensor([False] * 6 + [True] * 6 + [False] * 4 + [True] * 4)
    assert torch.equal(half[0], most_important) == ranked
    shared = (half & most_important).sum().item() / half.sum().item()
    assert (shared > 0.75) == ranked
    assert len(half.unique(dim=0)) > 1


def test_importance_chooses_the_channels_of_a_width() -> None:
    shares = torch.full((4, 2), 0.5, dtype=torch.float64)
    wished = Population(torch.zeros(4, 20, dtype=torch.bool), shares)  # the present states do not matter
    kept = evolution(population=4).repair(wished, RANKS, None).states
    assert kept.tolist() == [[False] * 6 + [True] * 6 + [False] * 4 + [True] * 4] * 4


def test_selection_keeps_state_and_shares_together() -> None:
    moves = evolution(population=4)
    parents = Population(torch.zeros(4, 20, dtype=torch.bool), torch.zeros(4, 2))
    children = Population(torch.ones(4, 20, dtype=torch.bool), torch.ones(4, 2))
    energies = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.0, float("inf")])
    survivors, won = moves.select(parents, children, energies)
    assert won.tolist() == [False, True, True, False]
    assert survivors.states[:, 0].tolist() == won.tolist()
    assert survivors.shares.mean(1).tolist() == [0.0, 1.0, 1.0, 0.0]


def test_the_children_of_a_converged_population_are_its_state() -> None:
    moves = evolution(genes="channels")
    state: Tensor = torch.rand(20, generator=Generator().manual_seed(2)) < 0.5
    parents = Population(state.expand(8, 20), torch.full((8, 2), 0.5))
    assert torch.equal(moves.children(parents).states, parents.states)


def test_shares_stay_within_bounds() -> None:
    moves = evolution(width_spread=2.0, width_factor=2.0)
    population = moves.start(RANKS, 2, 0.5)
    for _ in range(20):
        population = moves.children(population)
        assert ((population.shares >= 0.01) & (population.shares <= 4.0)).all()
    assert not torch.equal(moves.children(population).shares, population.shares)


def test_noise_separates_equal_members_by_its_standard_deviation() -> None:
    moves = evolution(population=256, crossover_rate=0.0)
    one_mind = Population(torch.zeros(256, 20, dtype=torch.bool), torch.full((256, 2), 0.5, dtype=torch.float64))
    assert torch.equal(moves.children(one_mind).shares, one_mind.shares)
    parted = (moves.children(one_mind, noise=0.2).shares / 0.5).log()
    assert parted.std().item() == pytest.approx(0.2, rel=0.15)  # 512 draws: 3 % is one standard error
    assert parted.mean().abs().item() < 0.03
