import pytest
import torch
from costs import Measured, scripted
from states import space_of
from torch import Tensor
from zoo import ZOO, images, randomised

from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.search.gradual_magnitude import GradualMagnitudeRegime
from edcompress.pruning.search.importance import magnitude
from edcompress.pruning.search.method import SearchProblem
from edcompress.pruning.search.one_shot import (
    global_state,
    lamp_scores,
    relative_to_cost,
    relative_to_group,
    uniform_state,
)
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.precision import Precision

SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0])


def widths(state: Tensor) -> list[int]:
    return [int(state[:4].sum()), int(state[4:].sum())]


def two_groups(prices: list[float], budget: float) -> FeasibleStates:
    return scripted((4, 4), prices, Target(macs=budget), min_ratio=0.0)


def test_a_uniform_state_keeps_the_same_share_of_each_group_whatever_their_scale() -> None:
    state = uniform_state(space_of(4, 4), two_groups([1.0, 1.0], 0.5), SCORES, 0.5, 0.5)
    assert state.tolist() == [False, False, True, True] * 2


def test_a_global_state_chooses_the_widths_too() -> None:
    state = global_state(space_of(4, 4), two_groups([1.0, 1.0], 0.75), SCORES, 0.5, 0.75)
    assert state.tolist() == [False, False, True, True, True, True, True, True]
    # a group that costs three times as much: 4 x 3 of 16 for the second, so that one of the first still fits 13 / 16
    state = global_state(space_of(4, 4), two_groups([1.0, 3.0], 13 / 16), SCORES, 0.5, 13 / 16)
    assert widths(state) == [1, 4]


def test_a_global_state_without_a_budget_keeps_a_share_of_all_channels() -> None:
    feasible = scripted((4, 4), [1.0, 1.0], None, min_ratio=0.0)
    assert widths(global_state(space_of(4, 4), feasible, SCORES, 0.625, None)) == [1, 4]


def test_normalised_scores_compare_groups_of_different_scale() -> None:
    scores = relative_to_group(space_of(4, 4), SCORES)
    torch.testing.assert_close(scores[:4], scores[4:])
    torch.testing.assert_close(scores[:4].mean(), torch.tensor(1.0))
    assert relative_to_group(space_of(2), torch.zeros(2)).tolist() == [0.0, 0.0]


def test_scores_per_cost_are_divided_by_the_cost_of_a_channel() -> None:
    # prices 1 and 3: a channel costs 1/16 of the network in the first group, 3/16 in the second
    scores = relative_to_cost(space_of(4, 4), two_groups([1.0, 3.0], 0.5), torch.ones(8))
    torch.testing.assert_close(scores, torch.tensor([16.0] * 4 + [16 / 3] * 4))


def test_channels_that_save_no_time_are_removed_last() -> None:
    # 4 channels take a time of 4, and 3 of them 4.5; of the other group, 3 and 2 of them take 4.5 and 2
    limits = Constraints(round_to=1, min_ratio=0.0)
    feasible = FeasibleStates(space_of(4, 3), Measured([1.0, 1.0], (4, 3)), Target(macs=0.5), limits)
    scores = relative_to_cost(space_of(4, 3), feasible, torch.tensor([1.0, 1.0, 1.0, 0.0, 9.0, 9.0, 9.0]))
    assert scores.isfinite().all()
    assert scores.argsort(descending=True, stable=True).tolist() == [0, 1, 2, 4, 5, 6, 3]


def test_lamp_by_hand() -> None:
    scores = lamp_scores(space_of(3, 2), torch.tensor([2.0, 1.0, 5.0, 0.0, 0.0]))
    torch.testing.assert_close(scores, torch.tensor([2 / 7, 1 / 8, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_global_states_of_a_real_network_fill_the_budget_and_do_not_exceed_it(budget: float) -> None:
    network = randomised(ZOO["residual"].network())
    space, target = trace_space(network, images(2)), Target(macs=budget)
    feasible = FeasibleStates(
        space, CostModel(space, network, images(2)), target, Constraints(round_to=1, min_ratio=0.0)
    )
    for scores in (magnitude(space, network), lamp_scores(space, magnitude(space, network)), torch.rand(space.genes)):
        counts = feasible.widths(global_state(space, feasible, scores, 0.5, budget))
        assert feasible.share(counts) <= budget
        dearest = max(feasible.share(counts + one) - feasible.share(counts) for one in torch.eye(len(space.free)))
        assert feasible.share(counts) + dearest > budget


def test_gradual_magnitude_follows_the_weights_and_the_budget() -> None:
    network = randomised(ZOO["residual"].network())
    space, target = trace_space(network, images(2)), Target(macs=0.4)
    feasible = FeasibleStates(
        space, CostModel(space, network, images(2)), target, Constraints(round_to=1, min_ratio=0.0)
    )
    search, precision = Search(evolve_every=2, anneal=0.8), Precision("fp32", torch.device("cpu"))
    regime = GradualMagnitudeRegime(SearchProblem(network, space, feasible, search, precision))
    batch = (images(4), torch.zeros(4, dtype=torch.int64))
    regime.prepare(*batch, 0.0)
    assert regime.state.all()
    regime.prepare(*batch, 0.9)
    assert regime.state.all()  # not due
    regime.prepare(*batch, 0.9)
    before = regime.state
    assert torch.equal(before, uniform_state(space, feasible, magnitude(space, network), 0.5, 0.4))
    assert 0.2 < feasible.share(feasible.widths(before)) <= 0.4
    saved = regime.snapshot()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.flip(0))  # the channels change places
    after = regime.finish(*batch)
    assert torch.equal(after, uniform_state(space, feasible, magnitude(space, network), 0.5, 0.4))
    assert not torch.equal(after, before)
    regime.restore(saved)
    assert torch.equal(regime.state, before)
    assert (regime.generation, regime.settled) == (2, False)
