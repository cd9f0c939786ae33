import torch
from torch import nn

from edcompress.networks.first_statistics import first_misfit


def test_images_like_those_of_training_fit_best_and_the_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=1.0), nn.ReLU(), nn.Flatten())
    images = torch.randn(32, 3, 8, 8)
    network.train()
    network(images)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    same, other = first_misfit(network, images), first_misfit(network, images * 3 + 1)
    assert same is not None
    assert other is not None
    assert same < 0.01
    assert other > 1
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network[1]._forward_pre_hooks


def test_a_network_without_batch_norm_says_nothing() -> None:
    assert first_misfit(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)) is None
