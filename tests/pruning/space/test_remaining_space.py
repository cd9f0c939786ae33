import pytest
import torch
from states import random_state
from torch import nn
from wirings import chosen
from zoo import ZOO, images, randomised

from edcompress.pruning.cost.cost_model import CostModel, RemainingCosts
from edcompress.pruning.cost.network_size import measure_size
from edcompress.pruning.space.plan import Plan, compose_plans, extend_plan, plan_of, state_of
from edcompress.pruning.space.remaining_space import narrow_space
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import apply_plan, remove_channels
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork
from edcompress.pruning.tracing.tracing import trace_space

zoo = pytest.mark.parametrize("name", ZOO)
EVERYTHING = Plan(groups=())


def halved(name: str, seed: int) -> tuple[nn.Module, PruningSpace, Plan]:
    """Return a network of the zoo with its space, and the plan of a random state."""
    network = randomised(ZOO[name].network(), seed)
    space = trace_space(network, images(2))
    return network, space, plan_of(random_state(space, seed), space)


@zoo
@pytest.mark.parametrize("seed", range(1, 6))
def test_two_removals_equal_one_with_the_composed_plan_bit_for_bit(name: str, seed: int) -> None:
    network, space, first = halved(name, seed)
    smaller, rest = apply_plan(network, first, space), narrow_space(space, first)
    second = plan_of(random_state(rest, seed + 10), rest)
    twice, once = apply_plan(smaller, second, rest), apply_plan(network, compose_plans(first, second), space)
    assert repr(twice) == repr(once)
    assert twice.state_dict().keys() == once.state_dict().keys()
    assert all(torch.equal(tensor, once.state_dict()[key]) for key, tensor in twice.state_dict().items())
    assert torch.equal(twice(images()), once(images()))
    assert [tuple(b.shape) for b in twice.buffers()] == [tuple(b.shape) for b in once.buffers()]
    assert narrow_space(rest, second) == narrow_space(space, compose_plans(first, second))


@zoo
def test_the_remaining_space_fits_the_smaller_network(name: str) -> None:
    network, space, first = halved(name, 2)
    smaller, rest = apply_plan(network, first, space), narrow_space(space, first)
    state = random_state(rest, 3)
    pruned = remove_channels(smaller, state, rest)
    assert torch.equal(SlicedNetwork(rest, smaller).call(state, images()), pruned(images()))
    torch.testing.assert_close(masked_forward(smaller, rest, state, images()), pruned(images()), rtol=1e-4, atol=1e-5)


# A grouped convolution of one group is a plain one to tracing, which then sees channels where blocks were, and a norm of one group locks
# them; torch-pruning numbers the channels around a bare parameter as it likes, in a group that is locked.
TRACED_OTHERWISE = {"grouped", "grouped_in_a_row", "grouped_in_concat", "group_norm_of_blocks", "multihead"}


@zoo
def test_the_remaining_space_is_the_one_that_tracing_finds(name: str) -> None:
    network, space, state = chosen(name)
    plan = plan_of(state, space)
    traced = trace_space(apply_plan(network, plan, space), images(2))
    assert (narrow_space(space, plan) == traced) == (name not in TRACED_OTHERWISE)
    assert narrow_space(space, extend_plan(EVERYTHING, space)) == space


def test_positions_and_channels_are_renumbered() -> None:
    _, space, state = chosen("concat")  # a loses channel 0 of 4, b channel 1 of 2; join reads a and then b
    rest = narrow_space(space, plan_of(state, space))
    reads = [m for group in rest.free for m in group.members if (m.layer, m.side) == ("join", "in")]
    assert [(m.positions, m.channels) for m in reads] == [((0, 1, 2), (0, 1, 2)), ((3,), (0,))]


def test_a_locked_group_stays_as_the_plan_left_it() -> None:
    network = randomised(ZOO["residual"].network())
    space, locked = (trace_space(network, images(2), ignore) for ignore in ((), ("stem",)))
    first = plan_of(random_state(space, 3), space)
    rest = narrow_space(locked, first)
    assert [group.name for group in rest.free] == ["conv1"]
    second = plan_of(random_state(rest, 0), rest)
    whole = compose_plans(first, second)
    assert [len(group.kept) for group in whole.groups] == [len(first.groups[0].kept), 1]
    once = apply_plan(network, whole, space)
    assert torch.equal(apply_plan(apply_plan(network, first, space), second, rest)(images()), once(images()))


def test_a_plan_of_some_groups_is_extended_by_all_channels_of_the_others() -> None:
    _, space, state = chosen("chain")
    conv2 = Plan(groups=plan_of(state, space).groups[1:])
    assert state_of(extend_plan(conv2, space), space).tolist() == [True] * 4 + state.tolist()[4:]
    assert extend_plan(plan_of(state, space), space) == plan_of(state, space)
    assert compose_plans(extend_plan(EVERYTHING, space), plan_of(state, space)) == plan_of(state, space)


@zoo
def test_costs_of_the_rest_are_shares_of_the_dense_network(name: str) -> None:
    network, space, first = halved(name, 4)
    rest = narrow_space(space, first)
    second = plan_of(random_state(rest, 5), rest)
    costs = RemainingCosts(
        CostModel(space, network, images(2)),
        torch.tensor([len(group.kept) for group in first.groups]),
        torch.arange(len(space.free))[1:],  # the first group stays as it is
    )
    kept = [len(group.kept) for group in second.groups]
    stays = second.model_copy(update={"groups": second.groups[1:]})
    pruned = apply_plan(network, compose_plans(first, stays), space)
    dense, size = measure_size(network, images(2)), measure_size(pruned, images(2))
    widths = torch.tensor(kept[1:])
    assert costs.share("macs", widths).item() == pytest.approx(size.macs / dense.macs)
    assert costs.share("params", widths).item() == pytest.approx(size.params / dense.params)
    left = len(first.groups[0].kept) + sum(kept[1:])
    assert costs.share("channels", widths).item() == pytest.approx(left / space.genes)
    assert torch.equal(costs.share("macs", widths.expand(2, 3, -1)), costs.share("macs", widths).expand(2, 3))
