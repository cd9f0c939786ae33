import copy

import pytest
import torch
from states import random_state
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, AdamW, Optimizer
from wirings import chosen, dropped_by_name, dropped_of
from zoo import ZOO, images, randomised

from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.batchnorm import batch_statistics

zoo = pytest.mark.parametrize("name", ZOO)
LABELS = torch.tensor([0, 1, 2, 0])


@zoo
@pytest.mark.parametrize("seed", range(3))
def test_the_sliced_network_equals_the_pruned_one_bit_for_bit(name: str, seed: int) -> None:
    network, space, state = chosen(name)
    state = state if seed == 2 else random_state(space, seed)
    sliced, pruned = SlicedNetwork(space, network), remove_channels(network, state, space)
    assert torch.equal(sliced.call(state, images()), pruned.eval()(images()))
    torch.testing.assert_close(
        sliced.call(state, images()), masked_forward(network, space, state, images()), rtol=1e-4, atol=1e-5
    )


@zoo
def test_a_training_step_equals_that_of_the_pruned_network(name: str) -> None:
    network, space, state = chosen(name)
    network.train()
    pruned = remove_channels(network, state, space).train()
    F.cross_entropy(SlicedNetwork(space, network).call(state, images()), LABELS).backward()
    F.cross_entropy(pruned(images()), LABELS).backward()
    total = {key: parameter.grad.norm() for key, parameter in network.named_parameters() if parameter.grad is not None}
    for key, parameter in pruned.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(total[key], parameter.grad.norm(), rtol=1e-4, atol=1e-6)
    network.eval()  # the statistics of kept channels moved as theirs did
    torch.testing.assert_close(
        SlicedNetwork(space, network).call(state, images()), pruned.eval()(images()), rtol=1e-4, atol=1e-5
    )


def test_linear_layers_with_millions_of_weights_run_whole_with_the_same_result() -> None:
    network = randomised(
        nn.Sequential(nn.Linear(4, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 3))
    )
    x = torch.randn(4, 4, generator=Generator().manual_seed(1))
    space = trace_space(network, x[:2])
    state = random_state(space, 2)
    sliced, pruned = SlicedNetwork(space, network), remove_channels(network, state, space)
    assert state.sum() < 0.6 * len(state)
    torch.testing.assert_close(sliced.call(state, x), pruned.eval()(x), rtol=1e-4, atol=1e-5)
    F.cross_entropy(sliced.call(state, x), LABELS).backward()
    F.cross_entropy(pruned(x), LABELS).backward()
    for key, parameter in pruned.named_parameters():
        grad = network.get_parameter(key).grad
        assert grad is not None
        assert parameter.grad is not None
        torch.testing.assert_close(grad.norm(), parameter.grad.norm(), rtol=1e-4, atol=1e-6)
    for parameter, dropped in dropped_of(network, space, state):
        assert parameter.grad is not None
        assert not parameter.grad[dropped].any()
    assert not network[2]._forward_hooks
    assert not network[2]._forward_pre_hooks


@pytest.mark.parametrize(("width", "whole"), [(2048, True), (2047, False)])
def test_only_linear_layers_with_millions_of_weights_run_whole(width: int, whole: bool) -> None:
    network = randomised(
        nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2048), nn.ReLU(), nn.Linear(2048, 3))
    )
    x = torch.randn(4, 4, generator=Generator().manual_seed(1))
    space = trace_space(network, x[:2])
    used: dict[int, tuple[int, ...]] = {}
    for i in (0, 2, 4):
        network[i].register_forward_pre_hook(lambda layer, _, i=i: used.update({i: tuple(layer.weight.shape)}))
    SlicedNetwork(space, network).call(random_state(space, 2), x)
    assert used[0] < (width, 4)
    assert used[4] < (3, 2048)
    assert (used[2] == (2048, width)) is whole


@zoo
def test_a_full_state_gives_the_dense_network_bit_for_bit(name: str) -> None:
    network, space, _ = chosen(name)
    assert torch.equal(SlicedNetwork(space, network).call(space.full_state(), images()), network(images()))


@zoo
def test_a_call_leaves_modes_widths_and_weights_alone(name: str) -> None:
    network, space, state = chosen(name)
    before, modes, shape = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()], repr(network)
    with batch_statistics(network):
        SlicedNetwork(space, network).call(state, images())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert repr(network) == shape


def test_widths_are_restored_when_the_network_fails() -> None:
    network, space, state = chosen("chain")
    shape = repr(network)
    with pytest.raises(RuntimeError):
        SlicedNetwork(space, network).call(state, images()[:, :1])
    assert repr(network) == shape


def test_statistics_of_dropped_channels_stay() -> None:
    network, space, state = chosen("chain")
    before = network.get_buffer("bn1.running_mean").clone()
    network.train()
    SlicedNetwork(space, network).call(state, images())
    dropped = [1]  # channel 1 of conv1 is dropped
    after = network.get_buffer("bn1.running_mean")
    assert torch.equal(after[dropped], before[dropped])
    assert not after[[0, 2, 3]].eq(before[[0, 2, 3]]).any()


@zoo
def test_no_gradient_reaches_a_dropped_channel(name: str) -> None:
    network, space, state = chosen(name)
    network.train()
    F.cross_entropy(SlicedNetwork(space, network).call(state, images()), LABELS).backward()
    for parameter, dropped in dropped_of(network, space, state):
        assert parameter.grad is not None
        assert not parameter.grad[dropped].any()
        if parameter.dim() > 1:  # a bias before a batch norm has no gradient of its own but round-off
            assert parameter.grad.any()


OPTIMIZERS = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.1),
    "adadelta": lambda parameters: Adadelta(parameters, lr=1.0, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["residual", "flatten", "depthwise", "shared", "prelu", "concat"])
def test_frozen_steps_leave_dropped_weights_bit_for_bit(name: str, optimizer: str) -> None:
    network, space, state = chosen(name)
    step = OPTIMIZERS[optimizer](network.parameters())
    sliced = SlicedNetwork(space, network)
    _train_step(sliced, space.full_state(), step, frozen=True)  # momentum that wants to go on
    before = copy.deepcopy(dict(network.named_parameters()))
    _train_step(sliced, state, step, frozen=True)
    for (key, parameter), dropped in dropped_by_name(network, space, state):
        assert torch.equal(parameter[dropped], before[key][dropped])
        assert not torch.equal(parameter[~dropped], before[key][~dropped]) or dropped.all()
    free = copy.deepcopy(dict(network.named_parameters()))
    _train_step(sliced, state, step, frozen=False)  # without the freeze the same weights do move
    moved = [not torch.equal(p[d], free[key][d]) for (key, p), d in dropped_by_name(network, space, state)]
    assert any(moved)


def test_dropped_weights_may_return() -> None:
    network, space, state = chosen("chain")
    sliced = SlicedNetwork(space, network)
    dense = sliced.call(space.full_state(), images())
    assert not torch.equal(sliced.call(state, images()), dense)
    with sliced.frozen(state), torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    for (key, parameter), dropped in dropped_by_name(network, space, state):
        reference = randomised(ZOO["chain"].network()).get_parameter(key)
        assert torch.equal(parameter[dropped], reference[dropped])
        assert torch.equal(parameter[~dropped], 0.5 * reference[~dropped])


def _train_step(sliced: SlicedNetwork, state: Tensor, step: Optimizer, *, frozen: bool) -> None:
    step.zero_grad(set_to_none=True)
    F.cross_entropy(sliced.call(state, images()), LABELS).backward()
    if frozen:
        with sliced.frozen(state):
            step.step()
    else:
        step.step()
