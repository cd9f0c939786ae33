import pytest
import torch
import torchvision
from states import random_state
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer
from zoo import ZOO, images, randomised
from zoo_awkward import LearnedInput

from edcompress.networks.registry import build
from edcompress.sources import Model
from edcompress.surgery.costs import CostModel, measure_size
from edcompress.surgery.plan import plan_of
from edcompress.surgery.remove import remove
from edcompress.surgery.tracing import trace_space

zoo = pytest.mark.parametrize("name", ZOO)


@zoo
@pytest.mark.parametrize("seed", range(3))
def test_predicted_costs_are_the_measured_ones(name: str, seed: int) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    costs, dense = CostModel(space, network, images(2)), measure_size(network, images(2))
    state = random_state(space, seed)
    widths = torch.tensor([int(state[part].sum()) for _, part in space.slices()])
    pruned = measure_size(remove(network, plan_of(state, space), space), images(2))
    assert costs.share("macs", widths).item() * dense.macs == pytest.approx(pruned.macs, abs=1e-6)
    assert costs.share("params", widths).item() * dense.params == pytest.approx(pruned.params, abs=1e-6)
    assert costs.share("channels", widths).item() == pytest.approx(state.double().mean().item(), abs=1e-12)
    assert pruned.params < dense.params or state.all()


@zoo
def test_everything_kept_costs_exactly_all(name: str) -> None:
    network = ZOO[name].network()
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    for kind in ("macs", "params", "channels"):
        assert costs.share(kind, torch.tensor(space.widths)).item() == 1.0


@pytest.mark.parametrize("name", ["chain", "residual", "depthwise"])
def test_the_layers_costs_add_up(name: str) -> None:
    network = ZOO[name].network()
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    half = torch.tensor([max(1, width // 2) for width in space.widths])
    by_layer = costs.by_layer("macs", half)
    assert sum(by_layer.values()) == pytest.approx(costs.share("macs", half).item())
    assert costs.by_layer("channels", half) == {}


def test_costs_of_the_chain_by_hand() -> None:
    size = measure_size(ZOO["chain"].network(), images(2))
    # conv1 64 pixels x 9 x 3 x 4 = 6912, conv2 64 x 9 x 4 x 6 = 13824, fc 6 x 3 = 18
    assert size.macs == 6912 + 13824 + 18
    # conv1 108 + 4, bn1 4 + 4, conv2 216 + 6, bn2 6 + 6, fc 18 + 3
    assert size.params == 112 + 8 + 222 + 12 + 21


def test_costs_of_a_pruned_chain_by_hand() -> None:
    network = ZOO["chain"].network()
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    widths = torch.tensor([[2, 3], [4, 6]])
    # two and three channels: conv1 64 x 9 x 3 x 2 = 3456, conv2 64 x 9 x 2 x 3 = 3456, fc 9
    assert costs.share("macs", widths).tolist() == pytest.approx([6921 / 20754, 1.0])
    # conv1 54 + 2, bn1 4, conv2 54 + 3, bn2 6, fc 9 + 3
    assert costs.share("params", widths).tolist() == pytest.approx([135 / 375, 1.0])
    assert costs.share("channels", widths).tolist() == [0.5, 1.0]


def test_a_layer_applied_twice_costs_twice_and_is_owned_once() -> None:
    size = measure_size(ZOO["shared"].network(), images(2))
    # first 64 x 9 x 3 x 4 = 6912, shared twice 64 x 9 x 4 x 4 = 9216, fc 12
    assert size.macs == 6912 + 2 * 9216 + 12
    assert size.params == 112 + 148 + 15


def test_a_depthwise_filter_reads_one_channel() -> None:
    size = measure_size(ZOO["depthwise"].network(), images(2))
    # conv 6912, depthwise 64 x 9 x 1 x 4 = 2304, pointwise 64 x 4 x 6 = 1536, fc 18
    assert size.macs == 6912 + 2304 + 1536 + 18


def test_attention_counts_though_no_linear_layer_computes_it() -> None:
    network = torchvision.models.VisionTransformer(8, 4, 1, 2, 6, 10, num_classes=3)
    # 4 patches and a class token of 6: patches 4 x 48 x 6, in and out projections 5 x 6 x (18 + 6), two heads of 5 x 5 x 3 twice,
    # mlp 5 x 6 x 10 twice, head 6 x 3
    assert measure_size(network, images(2)).macs == 1152 + 720 + 300 + 600 + 18
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    assert [(group.name, group.channels) for group in space.free] == [("encoder.layers.encoder_layer_0.mlp.0", 10)]
    assert costs.share("macs", torch.tensor([5])).item() == pytest.approx(1 - 300 / 2790)


def test_windows_count_for_the_image_they_are_of() -> None:
    network = SwinTransformer([2, 2], 6, [2], [2], [2, 2], num_classes=3)
    # 16 tokens of 6: patches 16 x 12 x 6, and in two blocks: qkv and projection 16 x 6 x (18 + 6), 4 windows with two heads of
    # 4 x 4 x 3 twice, mlp 16 x 6 x 24 twice; head 6 x 3
    assert measure_size(network, images(2)).macs == 1152 + 2 * (2304 + 768 + 4608) + 18


def test_a_layer_that_takes_a_parameter_is_counted() -> None:
    network = LearnedInput()
    conv, conv2, gate, fc = 64 * 9 * 3 * 4, 64 * 9 * 4 * 5, 8, 15
    # the gate is applied once for a batch, whatever its size, which the shares of one image round down
    assert measure_size(network, images(1)).macs == conv + conv2 + gate + fc
    space = trace_space(network, images(2))
    assert CostModel(space, network, images(2)).share("macs", torch.tensor(space.widths)).item() == 1.0


def test_measuring_does_not_depend_on_the_number_of_images_and_changes_nothing() -> None:
    network = ZOO["chain"].network().train()
    before = network.state_dict()["bn1.running_mean"].clone()
    assert measure_size(network, images(1)) == measure_size(network, images(4))
    assert network.training
    assert torch.equal(network.state_dict()["bn1.running_mean"], before)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_real_network_has_the_macs_of_its_paper() -> None:
    network = build(Model(arch="resnet20", num_classes=10))
    example = torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0))
    # by hand: stem 442368; stage 1: 6 x 2359296; stages 2 and 3: 1179648 + 5 x 2359296 each; classifier 640
    assert measure_size(network, example).macs == 442368 + 6 * 2359296 + 2 * (1179648 + 5 * 2359296) + 640


class Functional(nn.Module):
    """A convolution with a weight of its own, a transposed one, and a layer that gives more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.up, self.both = (
            nn.Parameter(torch.randn(4, 3, 3, 3)),
            nn.ConvTranspose2d(4, 2, 2, 2),
            Both(2, 5, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.both(self.up(F.conv2d(x, self.weight, padding=1)))[0].mean((2, 3))


class Both(nn.Conv2d):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


def test_convolutions_that_no_counted_layer_makes_are_counted() -> None:
    assert measure_size(Functional(), images(2)).macs == 8 * 8 * 4 * 27 + 8 * 8 * 4 * 2 * 4 + 16 * 16 * 5 * 2
