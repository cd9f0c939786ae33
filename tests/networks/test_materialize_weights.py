from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from zoo import images, randomised

from edcompress.networks.materialize_weights import with_plain_weights


class Standardised(nn.Conv2d):
    """Every filter with mean 0 and deviation 1 (S. Qiao et al., "Weight Standardization", 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        weight = ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Noted(nn.Conv2d):
    """A convolution with its own forward that uses its weight unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)


def test_standardised_weights_become_plain_ones() -> None:
    network = randomised(
        nn.Sequential(
            Standardised(3, 4, 3, padding=1), nn.ReLU(), Standardised(4, 4, 3, stride=2, groups=2, bias=False)
        )
    )
    before = network(images())
    plain = with_plain_weights(network)
    assert [type(layer) for layer in plain] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert torch.equal(plain(images()), before)
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias", "2.weight"]
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in plain.parameters())


class Halving(nn.Conv2d):
    """A convolution with half of its weight, called in a given way."""

    def __init__(self, call: Callable[[Tensor, Tensor, nn.Conv2d], Tensor]) -> None:
        super().__init__(4, 4, 3, stride=2, groups=2)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight / 2, self)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, weight, own: F.conv2d(x, weight, own.bias, own.stride, groups=2),
        lambda x, weight, own: F.conv2d(x, weight, None, own.stride[0], 1, 1, 2),
        lambda x, weight, own: F.conv2d(x, weight=weight, groups=own.groups, stride=(2, 2)),
        lambda x, weight, own: F.conv2d(input=x, weight=weight, bias=own.bias, stride=own.stride, groups=2),
    ],
)
def test_a_convolution_may_leave_out_or_name_arguments(call: Callable[[Tensor, Tensor, nn.Conv2d], Tensor]) -> None:
    network = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), Halving(call)))
    before = network(images())
    plain = with_plain_weights(network)
    assert type(plain[1]) is nn.Conv2d  # type: ignore[index]
    assert torch.equal(plain(images()), before)


def test_a_convolution_with_the_fewest_arguments_becomes_a_plain_one() -> None:
    class Fewest(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean())

    network = randomised(nn.Sequential(Fewest(3, 4, 3, bias=False)))
    before = network(images())
    plain = with_plain_weights(network)
    assert type(plain[0]) is nn.Conv2d  # type: ignore[index]
    assert torch.equal(plain(images()), before)


def test_masks_of_torchs_pruning_are_applied() -> None:
    network = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)))
    prune.l1_unstructured(network[0], "weight", amount=0.5)  # type: ignore[index]
    prune.random_unstructured(network[0], "bias", amount=1)  # type: ignore[index]
    prune.ln_structured(network[1], "weight", amount=2, n=2, dim=0)  # type: ignore[index]
    prune.l1_unstructured(network[1], "weight", amount=0.1)  # type: ignore[index]
    before = network(images())
    plain = with_plain_weights(network)
    assert torch.equal(plain(images()), before)
    assert [name for name, _ in plain.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.bias",
        "1.weight",
        "3.weight",
        "3.bias",
    ]
    assert not list(plain.buffers())


def test_a_convolution_that_is_used_twice_stays_one_layer() -> None:
    twice = Standardised(3, 3, 3, padding=1)
    network = randomised(nn.Sequential(twice, nn.Sequential(twice, nn.ReLU())))
    before, parameters = network(images()), sum(1 for _ in network.parameters())
    plain = with_plain_weights(network)
    assert plain[0] is plain[1][0]  # type: ignore[index]
    assert type(plain[0]) is nn.Conv2d
    assert torch.equal(plain(images()), before)
    assert sum(1 for _ in plain.parameters()) == parameters


def test_convolutions_that_use_their_weight_stay() -> None:
    network = nn.Sequential(Noted(3, 4, 3), nn.Conv2d(4, 4, 3))
    layers = list(network)
    assert list(with_plain_weights(network)) == layers


def test_parametrizations_become_plain_weights() -> None:
    network = randomised(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    before = network(images())
    plain = with_plain_weights(network)
    assert torch.equal(plain(images()), before)
    assert set(plain.state_dict()) == {"0.weight", "0.bias", *(f"1.{key}" for key in nn.BatchNorm2d(4).state_dict())}


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2), (1, 1), (1, 2)])
def test_convolutions_that_pad_their_input_still_do(size: int, kernel: int, stride: int) -> None:
    layers = pytest.importorskip("timm.layers")
    network = randomised(nn.Sequential(layers.ScaledStdConv2dSame(3, 4, kernel, stride)))
    image = torch.randn(2, 3, size, size)
    before = network(image)
    plain = with_plain_weights(network)
    assert torch.equal(plain(image), before)
    assert "0.gain" not in plain.state_dict()


class Gained(Standardised):
    """More than a convolution, which does not show while the gain is 1."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.ones(sizes[1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class Activated(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.silu(x)).relu()


class Masked(nn.Conv2d):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(pair[0] * pair[1])


class Reflecting(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="reflect"))


@pytest.mark.parametrize("kind", [Gained, Activated, Masked, Reflecting])
def test_convolutions_that_do_more_than_convolve_stay(kind: type[nn.Conv2d]) -> None:
    layer = kind(3, 4, 3)
    assert list(with_plain_weights(nn.Sequential(layer))) == [layer]


def test_a_spectral_norm_becomes_the_weight_of_eval_mode() -> None:
    network = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3), n_power_iterations=1))
    with torch.no_grad():
        network[0].parametrizations.weight.original.normal_()
        before = network.eval()(images())
        plain = with_plain_weights(network.train())
        assert plain[0].training
        assert torch.equal(plain(images()), before)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_norms_by_hooks_become_plain_weights(norm: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), norm(nn.Conv2d(4, 4, 3))).eval()
    before = network(images())
    plain = with_plain_weights(network)
    assert torch.allclose(plain(images()), before, atol=1e-6)
    assert sorted(plain.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert all(parameter.is_leaf for parameter in plain.parameters())
