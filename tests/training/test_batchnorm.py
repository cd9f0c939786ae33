import copy

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.training.batchnorm import batch_statistics, recalibrate_batch_norm
from edcompress.training.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)


def norm(layer: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(layer, nn.BatchNorm2d)
    return layer


def batches(*parts: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in parts]


def flags(network: nn.Module) -> list[tuple[bool, object]]:
    return [(m.training, getattr(m, "track_running_stats", None)) for m in network.modules()]


def test_statistics_are_the_exact_mean_and_variance_of_one_batch() -> None:
    layer = nn.BatchNorm2d(2)
    # channel 0 holds 1, 2, 3, 6: mean 3, unbiased variance (4 + 1 + 0 + 9) / 3; channel 1 holds 0, 0, 4, 4: 2 and 16 / 3
    x = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]], [[[3.0, 6.0]], [[4.0, 4.0]]]])
    recalibrate_batch_norm(layer, batches(x), FP32)
    torch.testing.assert_close(layer.running_mean, torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(layer.running_var, torch.tensor([14 / 3, 16 / 3]))


def test_statistics_are_the_plain_average_over_batches_whatever_stood_there() -> None:
    network = randomised(nn.Sequential(nn.BatchNorm2d(3)))
    parts = [images(4, seed) + seed for seed in range(3)]
    recalibrate_batch_norm(network, batches(*parts), FP32)
    means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
    torch.testing.assert_close(norm(network[0]).running_mean, means)  # type: ignore[index]
    torch.testing.assert_close(norm(network[0]).running_var, variances)  # type: ignore[index]


def test_reestimation_changes_statistics_alone() -> None:
    network = randomised(ZOO["residual"].network())
    norm(network.get_submodule("bn")).momentum = 0.3
    norm(network.get_submodule("bn1")).momentum = None
    before, were = copy.deepcopy(dict(network.named_parameters())), flags(network)
    old = norm(network.get_submodule("bn")).running_mean.clone()  # type: ignore[union-attr]
    recalibrate_batch_norm(network, batches(images(8)), FP32)
    assert all(torch.equal(p, before[key]) for key, p in network.named_parameters())
    assert flags(network) == were
    momenta = [norm(network.get_submodule(name)).momentum for name in ("bn", "bn1", "bn2")]
    assert momenta == [0.3, None, 0.1]
    assert not torch.equal(norm(network.get_submodule("bn")).running_mean, old)  # type: ignore[arg-type]


def test_dropout_is_off_while_statistics_are_estimated() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    recalibrate_batch_norm(network.train(), batches(images(8)), FP32)
    torch.testing.assert_close(norm(network[1]).running_mean, images(8).mean((0, 2, 3)))
    assert network[0].training


def test_a_broken_batch_leaves_momenta_and_modes() -> None:
    network = randomised(ZOO["chain"].network())
    were = flags(network)
    with pytest.raises(RuntimeError):
        recalibrate_batch_norm(network, batches(torch.zeros(2, 5, 8, 8)), FP32)
    assert flags(network) == were
    assert norm(network.get_submodule("bn1")).momentum == 0.1


def test_inside_the_batch_normalises_and_nothing_is_remembered() -> None:
    network = randomised(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9)))
    layer, x = norm(network[0]), images(8)  # type: ignore[index]
    before = copy.deepcopy(network.state_dict())
    with batch_statistics(network):
        y = network(x)
    centred = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(y, centred * layer.weight[:, None, None] + layer.bias[:, None, None])
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert not torch.allclose(network(x), y)


@pytest.mark.parametrize("training", [True, False])
def test_flags_come_back_even_after_an_error(training: bool) -> None:
    network = randomised(ZOO["residual"].network()).train(training)
    norm(network.get_submodule("bn1")).track_running_stats = False
    norm(network.get_submodule("bn2")).train(not training)
    were = flags(network)
    with batch_statistics(network):
        assert norm(network.get_submodule("bn")).training
        assert not norm(network.get_submodule("bn")).track_running_stats
        assert not network.get_submodule("fc").training
    assert flags(network) == were
    with pytest.raises(RuntimeError, match="channels"), batch_statistics(network):
        network(torch.zeros(2, 5, 8, 8))
    assert flags(network) == were


def test_statistics_in_bf16_are_near_those_in_fp32() -> None:
    networks = [randomised(ZOO["residual"].network()) for _ in range(2)]
    recalibrate_batch_norm(networks[0], batches(images(8)), FP32)
    recalibrate_batch_norm(networks[1], batches(images(8)), Precision("bf16", CPU))
    exact, near = (norm(n.get_submodule("bn1")).running_mean for n in networks)
    assert exact is not None
    assert near is not None
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0.05)
    assert not torch.equal(near, exact)
