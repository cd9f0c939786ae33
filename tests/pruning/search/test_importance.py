import pytest
import torch
from states import space_of
from torch import Generator, Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.pruning.search.importance import channel_ranks, magnitude, taylor, uniform_noise
from edcompress.pruning.tracing.tracing import trace_space

Batch = list[tuple[Tensor, Tensor]]


def two_channels() -> nn.Module:
    """One input, two hidden channels h = relu(w x) with w = 1, 3, and logits V h with V = [[2, 0], [0, -1]]."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[1.0], [3.0]]))
        network.get_parameter("2.weight").copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
    return network


X: Batch = [(torch.tensor([[1.0]]), torch.tensor([0]))]


def test_magnitude_by_hand() -> None:
    network = two_channels()
    space = trace_space(network, torch.rand(2, 1))
    # producer and consumer weights squared: 1 + 2^2 and 3^2 + 1
    assert magnitude(space, network).tolist() == [5.0, 10.0]


def test_taylor_by_hand() -> None:
    network = two_channels()
    space = trace_space(network, torch.rand(2, 1))
    # x = 1: h = (1, 3), logits (2, -3); dL/dz = softmax - (1, 0) = (-q, q) with q = 1 / (1 + e^5)
    # dL/dV[i, j] = dL/dz_i h_j, so sum_i V dL/dV is 2 (-q) 1 for channel 0 and -1 q 3 for channel 1
    q = 1 / (1 + torch.tensor(5.0).exp())
    torch.testing.assert_close(taylor(space, network, X), torch.stack([4 * q**2, 9 * q**2]))
    torch.testing.assert_close(taylor(space, network, X * 3), taylor(space, network, X))  # averaged over batches


def test_taylor_leaves_the_network_alone_and_takes_frozen_layers() -> None:
    network = two_channels().requires_grad_(False).train()
    before = taylor(trace_space(network, torch.rand(2, 1)), network, X)
    assert before.gt(0).all()
    assert network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_positions_of_one_channel_add_up() -> None:
    network = randomised(ZOO["flatten"].network())
    space = trace_space(network, images(2))
    conv, fc1, fc2 = (network.get_parameter(f"{name}.weight").detach() for name in ("conv", "fc1", "fc2"))
    wanted = torch.cat(
        [
            conv.square().sum((1, 2, 3)) + fc1.square().view(6, 4, 4).sum((0, 2)),  # 4 channels of 4 features each
            fc1.square().sum(1) + fc2.square().sum(0),
        ]
    )
    torch.testing.assert_close(magnitude(space, network), wanted)


def test_magnitude_counts_every_layer_of_a_channel() -> None:
    network = randomised(ZOO["two_inputs"].network())
    space = trace_space(network, images(2))
    a, b, c = (network.get_parameter(f"{name}.weight").detach().square() for name in "abc")
    wanted = a.sum((1, 2, 3)) + b.sum((1, 2, 3)) + c.sum((0, 2, 3))
    torch.testing.assert_close(magnitude(space, network)[:4], wanted)


def test_magnitude_of_a_head_counts_its_projections_in_and_out() -> None:
    network = randomised(ZOO["multihead"].network())
    packed, after = (
        network.get_parameter(f"attention.{name}").detach() for name in ("in_proj_weight", "out_proj.weight")
    )
    wanted = packed.square().view(3, 2, -1).sum((0, 2)) + after.square().view(len(after), 2, -1).sum((0, 2))
    torch.testing.assert_close(magnitude(trace_space(network, images(2)), network), wanted)


def test_ranks_are_relative_to_the_group() -> None:
    space = space_of(4, 2)
    importance = torch.tensor([3.0, 1.0, 4.0, 2.0, 9.0, 8.0])
    assert channel_ranks(space, importance).tolist() == [0.5, 0.0, 0.75, 0.25, 0.5, 0.0]
    assert channel_ranks(space, torch.zeros(6)).tolist() == [0.0, 0.25, 0.5, 0.75, 0.0, 0.5]  # ties in order


def test_noise_comes_from_the_generator() -> None:
    space = space_of(40)
    once = uniform_noise(space, Generator().manual_seed(3))
    assert torch.equal(once, uniform_noise(space, Generator().manual_seed(3)))
    assert once.unique().numel() == 40


def test_a_weight_that_is_read_in_several_pieces_has_the_importance_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    space = trace_space(network, torch.randn(2, 3, 8, 8))
    whole = magnitude(space, network)
    monkeypatch.setattr("edcompress.pruning.search.importance._ELEMENTS_AT_ONCE", 60)  # two rows of the first layer
    assert torch.allclose(magnitude(space, network), whole)
