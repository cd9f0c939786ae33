import copy

import pytest
import torch
from wirings import chosen, dropped_of
from zoo import ZOO, images

from edcompress.pruning.space.plan import GroupPlan, Plan, state_of
from edcompress.pruning.surgery.masks import masked_forward, masked_weights

zoo = pytest.mark.parametrize("name", ZOO)
LABELS = torch.tensor([0, 1, 2, 0])


@zoo
def test_masks_match_those_worked_out_by_hand(name: str) -> None:
    network, space, state = chosen(name)
    weights = masked_weights(network, space, state)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    dropped = {}
    for key, weight in weights.items():
        dense = tensors[key]
        hidden = (weight == 0).transpose(0, 1).flatten(1).all(1)  # random weights: no input slice is zero by itself
        assert torch.equal(weight[:, ~hidden], dense[:, ~hidden])
        if hidden.any():
            dropped[key] = tuple(torch.nonzero(hidden).flatten().tolist())
    assert dropped == ZOO[name].zeros


@zoo
def test_a_full_state_gives_the_dense_network_bit_for_bit(name: str) -> None:
    network, space, _ = chosen(name)
    masked = masked_forward(network, space, space.full_state(), images())
    assert torch.equal(masked, network(images()))


@zoo
def test_masking_leaves_network_modes_and_weights_alone(name: str) -> None:
    network, space, state = chosen(name)
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    masked_forward(network, space, state, images())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes


@zoo
def test_the_values_of_a_dropped_channel_do_not_reach_the_logits(name: str) -> None:
    network, space, state = chosen(name)
    before = masked_forward(network, space, state, images())
    with torch.no_grad():
        for parameter, dropped in dropped_of(network, space, state):
            parameter[dropped] += 3.0
    assert torch.equal(masked_forward(network, space, state, images()), before)


def test_masks_follow_the_weights_they_were_built_on() -> None:
    network, space, state = chosen("chain")
    with torch.no_grad():
        network.get_parameter("conv2.weight").fill_(7.0)
    weight = masked_weights(network, space, state)["conv2.weight"]
    assert weight[:, 1].eq(0).all()  # channel 1 of conv1 is dropped
    assert weight[:, [0, 2, 3]].eq(7).all()


def test_a_group_plan_that_is_not_rising_indices_is_refused() -> None:
    for kept in [(), (1, 0), (0, 0), (0, 4), (-1, 0)]:
        with pytest.raises(ValueError, match="rising indices below 4"):
            GroupPlan(name="conv1", channels=4, kept=kept)


def test_a_state_is_masked_as_its_plan_says() -> None:
    _, space, state = chosen("chain")
    plan = Plan(
        groups=(
            GroupPlan(name="conv1", channels=4, kept=(0, 2, 3)),
            GroupPlan(name="conv2", channels=6, kept=(1, 2, 3, 4)),
        )
    )
    assert torch.equal(state_of(plan, space), state)
