from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision
from states import random_state
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import deform_conv2d, roi_align
from zoo import ZOO, Tail, conv, images, randomised
from zoo_awkward import LearnedInput

from edcompress.core.recipe.model import Model
from edcompress.networks.registry import build
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.multiplications import uncounted_warnings
from edcompress.pruning.cost.network_size import layer_sizes, measure_size
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.tracing import trace_space

zoo = pytest.mark.parametrize("name", ZOO)


@zoo
@pytest.mark.parametrize("seed", range(3))
def test_predicted_costs_equal_the_measured_ones(name: str, seed: int) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    costs, dense = CostModel(space, network, images(2)), measure_size(network, images(2))
    state = random_state(space, seed)
    widths = torch.tensor([int(state[part].sum()) for _, part in space.slices()])
    pruned = measure_size(remove_channels(network, state, space), images(2))
    assert costs.share("macs", widths).item() * dense.macs == pytest.approx(pruned.macs, abs=1e-6)
    assert costs.share("params", widths).item() * dense.params == pytest.approx(pruned.params, abs=1e-6)
    assert costs.share("channels", widths).item() == pytest.approx(state.double().mean().item(), abs=1e-12)
    assert pruned.params < dense.params or state.all()


@zoo
def test_a_full_state_costs_exactly_one(name: str) -> None:
    network = ZOO[name].network()
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    for kind in ("macs", "params", "channels"):
        assert costs.share(kind, torch.tensor(space.widths)).item() == 1.0


@zoo
def test_the_layers_costs_add_up(name: str) -> None:
    network = randomised(ZOO[name].network())
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


def test_windows_count_for_their_image() -> None:
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
    """A convolution with a weight of its own, a transposed one, and a layer that gives two tensors."""

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


def test_convolutions_outside_counted_layers_are_counted() -> None:
    assert measure_size(Functional(), images(2)).macs == 8 * 8 * 4 * 27 + 8 * 8 * 4 * 2 * 4 + 16 * 16 * 5 * 2


class Recurrent(nn.Module):
    """Two convolutions, then a recurrent layer that reads the 64 pixels one by one."""

    def __init__(self, kind: Callable[..., nn.Module], directions: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2, self.rnn = conv(3, 4), conv(4, 6), kind(6, 5)
        self.fc = nn.Linear(5 * directions, 3)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(2).permute(2, 0, 1)
        logits: Tensor = self.fc(self.rnn(pixels)[0][-1])
        return logits


@pytest.mark.parametrize(
    ("kind", "per_pixel"),
    [
        (nn.RNN, 5 * (6 + 5)),
        (nn.LSTM, 4 * 5 * (6 + 5)),
        (nn.GRU, 3 * 5 * (6 + 5)),
        (partial(nn.LSTM, num_layers=2), 4 * 5 * (6 + 5) + 4 * 5 * (5 + 5)),
        (partial(nn.LSTM, bidirectional=True), 2 * 4 * 5 * (6 + 5)),
    ],
)
def test_recurrent_layers_count_for_every_step(kind: Callable[..., nn.Module], per_pixel: int) -> None:
    network = Recurrent(kind, 2 if getattr(kind, "keywords", {}).get("bidirectional") else 1)
    convs, fc = 64 * 9 * (3 * 4 + 4 * 6), network.fc.weight.numel()
    assert measure_size(network, images(2)).macs == convs + 64 * per_pixel + fc
    assert layer_sizes(network, images(2))["rnn"].macs == 64 * per_pixel


def test_the_share_of_a_network_with_an_lstm_counts_all_multiplications() -> None:
    network = Recurrent(nn.LSTM)
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    assert [group.name for group in space.free] == ["conv1"]
    # conv1 64 x 9 x 3 x 4 = 6912 and conv2 64 x 9 x 4 x 6 = 13824 fall by half, the LSTM 64 x 20 x 11 = 14080 and fc 15 stay
    assert costs.share("macs", torch.tensor([2])).item() == pytest.approx((3456 + 6912 + 14080 + 15) / 34831)
    assert costs.by_layer("macs", torch.tensor([2]))["rnn"] == pytest.approx(14080 / 34831)


class Mixed(Tail):
    """Every channel's 64 pixels are multiplied by one matrix, and its 8 rows by a second."""

    def __init__(self) -> None:
        super().__init__(5)
        self.conv, self.conv2 = conv(3, 4), conv(4, 5)
        self.register_buffer("pixels", torch.eye(64) + 0.1)
        self.register_buffer("rows", torch.eye(8) - 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = (x.flatten(2) @ self.pixels).view_as(x)
        return self.classify(self.conv2(torch.einsum("nchw,hk->nckw", x, self.rows)))


def test_products_of_the_networks_own_code_follow_the_channels_that_they_take() -> None:
    network = randomised(Mixed())
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    # conv 64 x 9 x 3 x n, pixels n x 64 x 64, rows n x 64 x 8, conv2 64 x 9 x n x 5, fc 15
    dense = 4 * (64 * 27 + 64 * 64 + 64 * 8 + 64 * 45) + 15
    assert measure_size(network, images(2)).macs == dense
    state = torch.tensor([True, False, True, True] + [True] * 5)
    pruned = measure_size(remove_channels(network, state, space), images(2))
    assert pruned.macs == 3 * (dense - 15) / 4 + 15
    assert costs.share("macs", torch.tensor([3, 5])).item() * dense == pytest.approx(pruned.macs)


class LateProduct(Tail):
    """Only the channels of the second convolution are multiplied by a matrix."""

    def __init__(self) -> None:
        super().__init__(6)
        self.conv, self.conv2, self.conv3 = conv(3, 4), conv(4, 5), conv(5, 6)
        self.register_buffer("pixels", torch.eye(64) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv(x))))
        return self.classify(self.conv3((x.flatten(2) @ self.pixels).view_as(x)))


def test_a_product_follows_the_one_group_that_it_multiplies() -> None:
    network = randomised(LateProduct())
    space = trace_space(network, images(2))
    costs = CostModel(space, network, images(2))
    assert [group.name for group in space.free] == ["conv", "conv2", "conv3"]
    dense = measure_size(network, images(2)).macs
    for index, widths in enumerate(([3, 5, 6], [4, 4, 6], [4, 5, 5])):
        state = space.full_state()
        state[sum((4, 5, 6)[:index])] = False
        pruned = measure_size(remove_channels(network, state, space), images(2)).macs
        assert costs.share("macs", torch.tensor(widths)).item() * dense == pytest.approx(pruned)


@pytest.mark.parametrize(
    ("code", "macs"),
    [
        (lambda x: F.bilinear(x, x, torch.ones(5, 3, 3)), 5 * 3 * 3),
        (lambda x: torch.stack([row @ torch.ones(3, 5) for row in x]), 3 * 5),
        (lambda x: torch.stack([torch.ones(5, 3) @ row for row in x]), 3 * 5),
        (lambda x: F.scaled_dot_product_attention(*3 * [x.view(-1, 1, 3, 1)]), 2 * 3 * 3),
        (lambda x: deform_conv2d(x[..., None, None], torch.zeros(len(x), 2, 1, 1), torch.ones(7, 3, 1, 1)), 3 * 7),
    ],
)
def test_products_of_every_kind_are_counted(code: Callable[[Tensor], Tensor], macs: int) -> None:
    assert measure_size(Pooled(code), images(2)).macs == 3 * 3 + macs
    assert uncounted_warnings(Pooled(code), images(2)) == []


def test_operations_of_torchvision_that_do_not_multiply_are_not_named() -> None:
    def pooled(x: Tensor) -> Tensor:
        boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
        return roi_align(x[..., None, None].expand(-1, -1, 4, 4), boxes, 2)

    assert uncounted_warnings(Pooled(pooled), images(2)) == []


class Pooled(nn.Module):
    def __init__(self, code: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.code, self.fc = code, nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        self.code(x.mean((2, 3)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_operations_that_multiply_without_a_formula_are_named() -> None:
    network = Pooled(lambda x: torch.cdist(torch.fft.rfft(x).abs(), x[:, :2]))
    (warning,) = uncounted_warnings(network, images(2))
    assert "the network runs aten._cdist_forward, aten._fft_r2c, whose multiply-accumulates are not counted" in warning
    assert uncounted_warnings(Recurrent(nn.LSTM), images(2)) == []


@pytest.mark.parametrize(
    ("arch", "pixels", "macs"),
    [("resnet56", 32, 125485696), ("squeezenet1_1", 64, 17022656), ("mobilenet_v2", 64, 24461312)],
)
def test_ordinary_networks_cost_what_torch_counts(arch: str, pixels: int, macs: int) -> None:
    network = build(Model(arch=arch, num_classes=10)).eval()
    example = torch.randn(1, 3, pixels, pixels)
    assert measure_size(network, example).macs == macs
    with FlopCounterMode(display=False) as counter:
        network(example)
    copies = (
        (32 * 16 * 16**2 + 64 * 32 * 8**2) if arch == "resnet56" else 0
    )  # option A shortcuts, convolutions in torch's eyes
    assert counter.get_total_flops() // 2 == macs + copies
