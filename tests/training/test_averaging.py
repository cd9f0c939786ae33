import copy

import pytest
import torch
from torch import nn

from edcompress.training.averaging import WeightAverage


def linear(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_average_is_that_of_the_formula() -> None:
    network = linear(1.0)
    average = WeightAverage(network, 0.15)
    for value in (2.0, 3.0):
        nn.init.constant_(network.weight, value)
        average.update()
    average.apply()
    # d = min(0.15, 1 / 10) = 0.1: 0.1 x 1 + 0.9 x 2 = 1.9; d = min(0.15, 2 / 11) = 0.15: 0.15 x 1.9 + 0.85 x 3 = 2.835
    assert network.weight.item() == pytest.approx(2.835)


def test_a_restored_average_goes_on_as_the_whole_one() -> None:
    def run(stop: bool) -> float:
        network = linear(1.0)
        average = WeightAverage(network, 0.9)
        for value in (2.0, -1.0, 3.0, 5.0):
            nn.init.constant_(network.weight, value)
            average.update()
            if stop:
                saved, average = copy.deepcopy(average.snapshot()), WeightAverage(network, 0.9)
                average.restore(saved)
        average.apply()
        return network.weight.item()

    assert run(stop=True) == run(stop=False)


def test_buffers_are_those_of_the_last_step() -> None:
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.5)
    network.running_mean = torch.tensor([3.0])
    network.num_batches_tracked += 7
    average.update()
    average.apply()
    assert network.running_mean.item() == 3.0
    assert network.num_batches_tracked.item() == 7
