import pytest
import torch
from costs import PROPERTY, Case, Chained, Measured, Priced, Scripted, cases, scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from states import space_of
from torch import Generator, Tensor, nn
from zoo import ZOO, conv, images

from edcompress.core.errors import BudgetError
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import MOST_ANNEALED, FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.tracing.tracing import trace_space


def kept(feasible: FeasibleStates, shares: list[float], budget: float | None) -> list[int]:
    """Return the group widths of the repaired state of one wish."""
    wish = torch.tensor([shares])
    D = int(feasible.channels.sum())
    state = feasible.repair(wish, torch.rand(1, D, generator=Generator().manual_seed(0)), budget)
    return [int(n) for n in feasible.widths(state)[0]]


def test_the_wish_is_met_where_it_is_the_budget() -> None:
    feasible = scripted((8, 8), [1.0, 1.0], Target(channels=0.5))
    assert kept(feasible, [0.25, 0.75], 0.5) == [2, 6]


def test_one_factor_brings_all_groups_to_the_budget() -> None:
    feasible = scripted((10, 10), [1.0, 1.0], Target(channels=0.5))
    assert kept(feasible, [0.9, 0.6], 0.5) == [6, 4]  # two thirds of both
    assert kept(feasible, [0.1, 0.4], 0.5) == [2, 8]  # twice both
    assert kept(feasible, [0.1, 0.9], 0.5) == [1, 9]
    assert kept(feasible, [0.1, 9.0], 0.55) == [1, 10]  # a group that is whole takes no more


def test_groups_keep_their_proportions_however_tight_the_budget() -> None:
    feasible = scripted((100, 100), [1.0, 1.0], Target(channels=0.05))
    for budget in (0.6, 0.3, 0.15, 0.06):
        assert kept(feasible, [0.5, 0.25], budget) == [round(400 * budget / 3), round(200 * budget / 3)]


def test_groups_step_up_in_the_order_of_the_wish() -> None:
    feasible = scripted((10, 10), [1.0, 1.0], Target(channels=0.55))
    # of 11 channels the first wish is the greater one at 0.5 + 0.5: it takes the odd one
    assert kept(feasible, [0.52, 0.5], 0.55) == [6, 5]
    assert kept(feasible, [0.5, 0.52], 0.55) == [5, 6]


def test_a_cheap_group_takes_what_an_expensive_one_cannot_use() -> None:
    # 4 x 10 + 4 x 1 = 44. Scaled alike, the groups go 2, 2 (22) and then 3, 3 (33); with 24 to spend the expensive one stays at 2 and
    # the cheap one takes the rest, so that the state is its own repair
    feasible = scripted((4, 4), [10.0, 1.0], Target(macs=24 / 44))
    assert kept(feasible, [0.5, 0.5], 24 / 44) == [2, 4]
    assert kept(feasible, [0.5, 1.0], 24 / 44) == [2, 4]


def test_groups_that_step_together_step_one_by_one() -> None:
    feasible = scripted((8, 8, 8), [1.0, 1.0, 1.0], Target(channels=17 / 24), round_to=1)
    assert sorted(kept(feasible, [0.5, 0.5, 0.5], 17 / 24)) == [5, 6, 6]


def test_blocks_are_rounded_by_the_channels_they_hold() -> None:
    limits = Constraints(round_to=8, min_ratio=0.0)
    feasible = FeasibleStates(space_of(12, 12, block=4), Scripted([1.0, 1.0], (12, 12)), None, limits)
    assert kept(feasible, [0.4, 0.6], None) == [4, 8]  # 4.8 and 7.2 blocks of 4 channels, by multiples of 8 channels
    assert feasible.round_to == 8
    feasible = FeasibleStates(space_of(12, 12, block=16), Scripted([1.0, 1.0], (12, 12)), None, limits)
    assert kept(feasible, [0.4, 0.6], None) == [5, 7]


def test_without_a_budget_the_wish_is_kept_on_rounded_widths_above_the_floors() -> None:
    feasible = scripted((16, 12, 3), [1.0, 1.0, 1.0], None, round_to=8, min_ratio=0.1)
    assert kept(feasible, [0.5, 0.5, 0.0], None) == [8, 8, 3]  # 3 is below one multiple: all of it
    assert kept(feasible, [1.0, 1.0, 1.0], None) == [16, 12, 3]
    assert kept(feasible, [0.0, 0.0, 0.0], None) == [8, 8, 3]
    assert kept(feasible, [0.74, 0.84, 0.0], None) == [8, 12, 3]  # 11.8 is nearer to 8; 10.1 is nearer to 12 than to 8


def test_floors_are_the_greater_of_share_and_count_rounded_up() -> None:
    feasible = scripted((40, 40), [1.0, 1.0], None, round_to=4, min_ratio=0.26, min_channels=3)
    assert kept(feasible, [0.0, 0.0], None) == [12, 12]  # 10.4 -> 11 -> 12
    assert feasible.smallest == 24 / 80
    feasible = scripted((40, 2), [1.0, 1.0], None, min_channels=3)
    assert kept(feasible, [0.0, 0.0], None) == [3, 2]  # no more than there are


def test_times_that_fall_again_stay_within_the_budget_too() -> None:
    limits = Constraints(round_to=1, min_ratio=0.0)
    feasible = FeasibleStates(space_of(16, 16), Measured([1.0, 1.0], (16, 16)), Target(macs=0.2), limits)
    wish, priority = torch.rand(64, 2, generator=Generator().manual_seed(0)), torch.rand(64, 32)
    for budget in (0.2, 0.5, 0.7):
        assert (feasible.share(feasible.widths(feasible.repair(wish, priority, budget))) <= budget).all()


def test_everything_fits_a_budget_of_one() -> None:
    feasible = scripted((16, 12), [3.0, 1.0], Target(macs=1.0), round_to=8)
    assert kept(feasible, [0.1, 0.1], 1.0) == [16, 12]


def test_a_target_below_the_floors_is_refused_with_what_to_do() -> None:
    message = r"target\.macs = 0\.2 is below 0\.250, the least that the constraints leave; raise the target, or lower constraints"
    with pytest.raises(BudgetError, match=message):
        scripted((8, 8), [1.0, 1.0], Target(macs=0.2), round_to=2, min_ratio=0.2)
    scripted((8, 8), [1.0, 1.0], Target(macs=0.25), round_to=2, min_ratio=0.2)


def test_an_unreachable_target_names_the_layers_that_bind() -> None:
    network = ZOO["chain"].network()  # conv1 (3 to 4) is locked, conv2 (4 to 6) may fall to one channel of six
    space = trace_space(network, images(2), ["conv1"])
    costs = CostModel(space, network, images(2))
    macs = [64 * 9 * 3 * 4, 64 * 9 * 4 * 6, 6 * 3]
    share = [f"{100 * part / sum(macs):.1f}%" for part in (macs[0], macs[1] / 6, macs[2] / 6)]
    message = rf"left: conv1 {share[0]} \(constraints.ignore .*\), conv2 {share[1]} \(at its floor\), fc {share[2]} "
    with pytest.raises(BudgetError, match=message):
        FeasibleStates(space, costs, Target(macs=0.1), Constraints(round_to=1, min_ratio=0.1))


class WithLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.lstm, self.fc = conv(3, 4), conv(4, 4), nn.LSTM(4, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(self.conv2(self.conv1(x)).flatten(2).permute(2, 0, 1))
        logits: Tensor = self.fc(steps[-1])
        return logits


def test_an_unreachable_target_names_a_recurrent_layer_that_binds() -> None:
    network = WithLstm()
    space = trace_space(network, images(2))
    share = 100 * 64 * 4 * 9 * (4 + 9) / (64 * (27 * 4 + 36 * 4 + 4 * 9 * 13) + 27)
    message = rf"left: lstm {share:.1f}% \(surgery does not cut it\), conv2 [\d.]+% \(lstm is a LSTM"
    with pytest.raises(BudgetError, match=message):
        FeasibleStates(
            space, CostModel(space, network, images(2)), Target(macs=0.1), Constraints(round_to=1, min_ratio=0.1)
        )


def test_a_network_without_free_groups_is_refused_with_the_reasons() -> None:
    space = trace_space(ZOO["chain"].network(), images(2), ["conv*"])
    costs = CostModel(space, ZOO["chain"].network(), images(2))
    with pytest.raises(BudgetError, match=r"no channel of this network can be removed \(fc: .*; conv1: constraints"):
        FeasibleStates(space, costs, Target(macs=0.5), Constraints())


def test_the_channels_of_highest_priority_stay() -> None:
    feasible = scripted((4, 3), [1.0, 1.0], None)
    priority = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, 0.999999, 0.0]])
    states = feasible.repair(torch.tensor([[0.5, 1 / 3]]), priority, None)
    assert states.int().tolist() == [[0, 1, 0, 1, 0, 1, 0]]


@pytest.mark.parametrize("kind", ["macs", "params", "channels"])
@pytest.mark.parametrize("name", ["residual", "concat", "squeeze_excite", "flatten", "depthwise"])
def test_random_wishes_are_repaired_into_every_budget(name: str, kind: str) -> None:
    network = ZOO[name].network()
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    channels = torch.tensor(space.widths, dtype=torch.float64)
    for seed in range(12):
        generator = Generator().manual_seed(seed)
        round_to, min_ratio = 1 + seed % 3, 0.1 * (seed % 4)
        constraints = Constraints(round_to=round_to, min_ratio=min_ratio)
        feasible = FeasibleStates(space, costs, Target.model_validate({kind: 1.0}), constraints)
        budget = feasible.smallest + (1 - feasible.smallest) * torch.rand((), generator=generator).item()
        shares = torch.rand(6, len(space.free), generator=generator) * 1.4 - 0.2
        priority = torch.rand(6, space.genes, generator=generator)
        states = feasible.repair(shares, priority, budget)
        widths = feasible.widths(states)
        assert (costs.share(kind, widths) <= budget).all()
        assert ((widths % round_to == 0) | (widths == channels)).all()
        assert (widths >= torch.minimum(torch.ceil(channels * min_ratio).clamp(min=1), channels)).all()
        assert _keeps_the_first(space, states, priority)
        assert _nothing_can_step_up(costs, kind, feasible, widths, budget, round_to)


@given(case=cases(), data=st.data())
@settings(PROPERTY)
def test_no_wish_breaks_a_floor_a_multiple_or_the_budget(case: tuple[Case, float], data: st.DataObject) -> None:
    (feasible, constraints), budget = case
    groups, channels = len(feasible.channels), feasible.channels
    wish = torch.tensor([data.draw(st.lists(st.floats(-1, 2), min_size=groups, max_size=groups)) for _ in range(2)])
    priority = torch.rand(2, int(channels.sum()), generator=Generator().manual_seed(data.draw(st.integers(0, 99))))
    floor = torch.ceil(channels * constraints.min_ratio).clamp(min=constraints.min_channels).minimum(channels)
    for allowed in (budget, None):
        states = feasible.repair(wish, priority, allowed)
        widths = feasible.widths(states)
        assert ((widths % constraints.round_to == 0) | (widths == channels)).all()
        assert (widths >= floor).all()
        assert allowed is None or (feasible.share(widths) <= allowed).all()
        assert torch.equal(states, feasible.repair(wish, priority, allowed))


def _keeps_the_first(space: PruningSpace, states: Tensor, priority: Tensor) -> bool:
    """Return whether no dropped channel has a higher priority than a kept one of its group."""
    return all(
        priority[i, part][states[i, part]].min() > priority[i, part][~states[i, part]].max()
        for _, part in space.slices()
        for i in range(len(states))
        if not states[i, part].all()
    )


def _nothing_can_step_up(
    costs: CostModel, kind: str, feasible: FeasibleStates, widths: Tensor, budget: float, round_to: int
) -> bool:
    """Return whether no group has a next width that fits the budget."""
    for width in widths:
        wider = torch.where(width + round_to > feasible.channels - 1, feasible.channels, width + round_to)
        for group in range(len(width)):
            trial = width.clone()
            trial[group] = wider[group]
            if width[group] < feasible.channels[group] and costs.share(kind, trial).item() <= budget:
                return False
    return True


@pytest.mark.parametrize(
    ("widths", "target", "step"),
    [
        ((128, 256), Target(macs=0.5), 32),
        ((16, 128), Target(macs=0.9), 32),  # in steps of 32 five eighths of the cost stay, or seven
        ((16, 128), Target(macs=0.5), 8),
        ((16, 16), Target(macs=0.3), 1),  # 8 of 32 channels in steps of 2, 9 in steps of 1
        ((16, 16), Target(macs=0.08), 1),
        ((16, 128), None, 8),
    ],
)
def test_the_default_rounding_is_the_widest_that_keeps_the_target_easy_to_reach(
    widths: tuple[int, ...], target: Target | None, step: int
) -> None:
    prices = [1 / width for width in widths]
    assert scripted(widths, prices, target, round_to=None, min_ratio=0.01).round_to == step


def few_groups(widths: tuple[int, ...], **constraints: int) -> FeasibleStates:
    """Return the feasible states of a chain of convolutions that is to keep half of its cost."""
    costs = Chained([1] * len(widths), widths)
    return FeasibleStates(space_of(*widths), costs, Target(macs=0.5), Constraints.model_validate(constraints))


@pytest.mark.parametrize(
    ("widths", "easy", "step"),
    [
        ((24, 40), 16, 4),  # 16 and 24: 3 x 16 + 16 x 24 = 432 of 3 x 24 + 24 x 40 = 1032; 12 and 40 are 516
        ((48, 48), 16, 8),  # 32 and 32: 1120 of 2448; 24 and 48 are 1224
        ((16, 32, 64), 16, 8),
        ((64, 64, 64), 32, 32),
        ((16, 32, 64) * 8, 16, 16),  # more combinations than can be tried: some are
    ],
)
def test_the_step_is_the_widest_with_a_state_near_the_target(widths: tuple[int, ...], easy: int, step: int) -> None:
    feasible = few_groups(widths)
    assert (feasible.easy_steps[0], feasible.round_to, feasible.warnings) == (easy, step, [])
    wishes = torch.rand(40, len(widths), generator=Generator().manual_seed(0))
    states = feasible.repair(wishes, torch.rand(40, sum(widths)), 0.5)
    assert 0.47 <= feasible.share(feasible.widths(states)).max().item() <= 0.5


def test_a_given_step_is_kept_with_a_warning_where_no_state_is_near_the_target() -> None:
    feasible = few_groups((24, 40), round_to=16)
    assert feasible.round_to == 16
    (warning,) = feasible.warnings
    assert warning == (
        "target.macs = 0.5: the largest network within it has 44.2% of the macs; lower constraints.round_to from 16, or set it to null"
    )
    assert few_groups((24, 40), round_to=4).warnings == []
    assert "few groups" in few_groups((3, 2)).warnings[0]


def test_genes_of_many_groups_are_not_mixed_up() -> None:
    widths = (1,) + (2,) * 9000  # more than thirteen bits of groups
    feasible = scripted(widths, [1.0] * len(widths), None)
    priority = torch.cat([torch.zeros(1), torch.tensor([0.0, 0.5]).repeat(9000)]).unsqueeze(0)
    states = feasible.repair(torch.full((1, len(widths)), 0.5), priority, None)
    assert states[0].tolist() == [True] + [False, True] * 9000


def test_a_larger_target_is_reached_sooner() -> None:
    def last(target: float, anneal: float = 0.4) -> float:
        """Return the share of a search, in hundredths, after which the target is in force."""
        feasible = scripted((100,), [1.0], Target(macs=target))
        found = [feasible.budget(step / 100, anneal) for step in range(101)]
        assert found[0] == (1.0 if anneal else target)
        assert found == sorted(found, key=lambda budget: -budget)
        return found.index(target) / 100

    assert last(0.5) == 0.4
    assert last(0.25) == 0.8
    assert last(0.05) == MOST_ANNEALED
    assert last(0.5, anneal=0.0) == last(1.0) == 0.0


def test_parameters_per_cost_are_relative_to_the_mean() -> None:
    def log_params_per_cost(target: Target | None) -> list[float]:
        costs, limits = Priced([], (10, 30)), Constraints(round_to=1, min_ratio=0.0)
        return FeasibleStates(space_of(10, 30), costs, target, limits).log_params_per_cost().exp().tolist()

    assert log_params_per_cost(Target(macs=0.5)) == pytest.approx(
        [0.5, 2.0]
    )  # four times as many, about a geometric mean of 1
    assert log_params_per_cost(Target(params=0.5)) == pytest.approx([1.0, 1.0])
    assert log_params_per_cost(None) == [1.0, 1.0]


def test_the_remaining_anneal_falls_from_one_to_zero_at_the_target() -> None:
    feasible = scripted((100,), [1.0], Target(macs=0.5))
    assert [feasible.remaining_anneal(progress, 0.4) for progress in (0.0, 0.1, 0.4, 1.0)] == pytest.approx(
        [1, 0.75, 0, 0]
    )
    assert feasible.remaining_anneal(0.0, 0.0) == 0.0
    assert scripted((100,), [1.0], None).remaining_anneal(0.0, 0.4) == 0.0
