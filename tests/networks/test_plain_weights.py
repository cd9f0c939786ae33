import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from zoo import images, randomised

from edcompress.networks.plain_weights import with_plain_weights


class Standardised(nn.Conv2d):
    """Every filter with mean 0 and deviation 1 (S. Qiao et al., "Weight Standardization", 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        weight = ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Noted(nn.Conv2d):
    """A convolution with a forward of its own that uses its weight as it is."""

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


def test_convolutions_that_use_their_weight_stay() -> None:
    network = nn.Sequential(Noted(3, 4, 3), nn.Conv2d(4, 4, 3))
    layers = list(network)
    assert list(with_plain_weights(network)) == layers


def test_parametrizations_are_written_down() -> None:
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
