import copy

import pytest
import torch
from states import random_state
from torch import nn
from zoo import ZOO, images, randomised
from zoo_awkward import AWKWARD

from edcompress.core.errors import NetworkError, ProofError
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.pruning.space.plan import GroupPlan, Plan, plan_of, state_of
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import apply_plan, remove_channels
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space

zoo = pytest.mark.parametrize("name", ZOO)


@zoo
@pytest.mark.parametrize("seed", range(4))
def test_masked_equals_pruned_and_not_dense(name: str, seed: int) -> None:
    network = randomised(ZOO[name].network(), seed)
    space = trace_space(network, images(2))
    state = random_state(space, seed)
    masked = masked_forward(network, space, state, images())
    pruned = remove_channels(network, state, space)(images())
    scale = masked.abs().max()
    assert (masked - pruned).abs().max() <= 1e-5 * scale
    if not state.all():
        assert (masked - network(images())).abs().max() > 1e-4 * scale
    require_equal(compare_logits(masked, pruned, "both"))


@pytest.mark.parametrize("name", AWKWARD)
@torch.no_grad()
def test_free_groups_of_awkward_networks_are_exact(name: str) -> None:
    network = randomised(AWKWARD[name](), 7)
    space = lock_inexact(network, trace_space(network, images(2)), images(2))
    for seed in (0, 2):
        state = random_state(space, seed)
        masked = masked_forward(network, space, state, images())
        pruned = remove_channels(network, state, space)(images())
        assert (masked - pruned).abs().max() <= 1e-5 * masked.abs().max()


@zoo
def test_shapes_after_surgery_match_those_worked_out_by_hand(name: str) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    plan = Plan(
        groups=tuple(
            GroupPlan(
                name=g.name,
                channels=g.channels,
                kept=tuple(c for c in range(g.channels) if c not in ZOO[name].drops[g.name]),
            )
            for g in space.free
        )
    )
    smaller = apply_plan(network, plan, space)
    tensors = smaller.state_dict()
    assert {key: tuple(tensors[key].shape) for key in ZOO[name].shapes} == ZOO[name].shapes
    group = space.free[0]
    member = next(m for m in group.members if (m.layer, m.side) == (group.name, "out"))
    kept = [p for p, c in zip(member.positions, member.channels, strict=True) if c in plan.groups[0].kept]
    first = f"{member.layer}.bias" if f"{member.layer}.bias" in tensors else f"{member.layer}.in_proj_bias"
    assert torch.equal(tensors[first], network.state_dict()[first][kept])  # the right ones, in their order


@zoo
def test_surgery_leaves_the_network_alone_and_keeps_modes_and_flags(name: str) -> None:
    network = randomised(ZOO[name].network()).train()
    frozen = {key for key, _ in network.named_parameters() if key.endswith("weight")}
    for key in frozen:
        network.get_parameter(key).requires_grad_(False)
    next(network.children()).eval()
    modes, before = [m.training for m in network.modules()], copy.deepcopy(network.state_dict())
    space = trace_space(network, images(2))
    smaller = remove_channels(network, random_state(space, 2), space)
    assert [m.training for m in network.modules()] == modes == [m.training for m in smaller.modules()]
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    for copied in (network, smaller):
        assert {key for key, p in copied.named_parameters() if not p.requires_grad} == frozen
    assert smaller.state_dict().keys() == before.keys()


@zoo
def test_plans_and_states_are_one_to_one(name: str) -> None:
    space = trace_space(ZOO[name].network(), images(2))
    for seed in range(4):
        state = random_state(space, seed)
        plan = plan_of(state, space)
        again = Plan.model_validate_json(plan.model_dump_json())
        assert again == plan
        assert torch.equal(state_of(again, space), state)
        assert all(set(g.kept) | set(g.dropped) == set(range(g.channels)) for g in plan.groups)


def test_a_plan_of_a_different_network_is_refused() -> None:
    chain, residual = ZOO["chain"].network(), ZOO["residual"].network()
    space, other = trace_space(chain, images(2)), trace_space(residual, images(2))
    plan = plan_of(other.full_state(), other)
    with pytest.raises(NetworkError, match="differ in the channels of conv1, conv2, stem"):
        apply_plan(chain, plan, space)
    with pytest.raises(NetworkError, match="differ in the channels of conv1, conv2, stem"):
        state_of(plan, space)
    wider = Plan(groups=(GroupPlan(name="conv1", channels=5, kept=(0,)),))
    with pytest.raises(NetworkError, match="differ in the channels of conv1, conv2"):
        apply_plan(chain, wider, space)
    with pytest.raises(NetworkError, match="made for another network: it needs 4 output channels of bn, here are 0"):
        apply_plan(chain, plan, other)


def test_a_plan_has_each_group_once() -> None:
    group = GroupPlan(name="conv1", channels=4, kept=(0,))
    with pytest.raises(ValueError, match="conv1 is in the plan more than once"):
        Plan(groups=(group, group))


def test_a_group_cannot_lose_all_its_channels() -> None:
    network = ZOO["chain"].network()
    space = trace_space(network, images(2))
    with pytest.raises(ValueError, match="at least one"):
        plan_of(torch.zeros(space.genes, dtype=torch.bool), space)
    state = space.full_state()
    state[4:] = False
    with pytest.raises(ValueError, match="the state drops all channels of conv2; keep at least one"):
        remove_channels(network, state, space)


def test_differences_are_reported_with_their_scale() -> None:
    proof = compare_logits(torch.tensor([[1.0, -4.0]]), torch.tensor([[1.5, -4.0]]), "a and b")
    assert (proof.max_abs_diff, proof.scale, proof.relative) == (0.5, 4.0, 0.125)
    with pytest.raises(ProofError, match=r"a and b: largest logit difference 0\.5 at scale 4 is above 0\.0001"):
        require_equal(proof)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_logits_are_never_equal(broken: float) -> None:
    good, bad = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, broken]])
    with pytest.raises(ProofError, match="NaN or infinity"):
        compare_logits(bad, bad, "x")
    with pytest.raises(ProofError):
        require_equal(compare_logits(good, bad, "x"))


def test_surgery_works_without_batch_norm_statistics_or_scales() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.InstanceNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    randomised(network)
    space = trace_space(network, images(2))
    assert space.widths == (4, 5)
    state = random_state(space, 3)
    smaller = remove_channels(network, state, space)
    torch.testing.assert_close(smaller(images()), masked_forward(network, space, state, images()))
