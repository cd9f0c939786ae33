import copy

import pytest
import torch
import torchvision
from pydantic import ValidationError
from states import random_state
from torch import Generator, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer
from zoo import ZOO, Tail, conv, images, randomised
from zoo_awkward import AWKWARD

from edcompress.core.errors import NetworkError, ProofError, RecipeError
from edcompress.core.recipe.model import Model
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.networks.registry import build
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.coupled_groups import trace_groups
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space

zoo = pytest.mark.parametrize("name", ZOO)


@zoo
def test_free_groups_and_locks_match_those_worked_out_by_hand(name: str) -> None:
    space = trace_space(randomised(ZOO[name].network()), images(2))
    assert {group.name: group.channels for group in space.free} == ZOO[name].free
    assert space.widths == tuple(ZOO[name].free.values())
    assert space.genes == sum(ZOO[name].free.values())
    locked = {group.name: group.locked for group in space.groups if group.locked}
    assert locked.keys() == ZOO[name].locked.keys()
    for group, word in ZOO[name].locked.items():
        assert word in (locked[group] or "")


@zoo
def test_trials_lock_no_exact_group(name: str) -> None:
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    assert lock_inexact(network, space, images(2)) == space


@zoo
def test_tracing_and_trials_leave_the_network_as_it_was(name: str) -> None:
    network = randomised(ZOO[name].network()).train()
    first, *_, last = network.parameters()
    last.requires_grad_(False)
    next(network.children()).eval()
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    lock_inexact(network, trace_space(network, images(2)), images(2))
    assert [module.training for module in network.modules()] == modes
    assert first.requires_grad
    assert not last.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


# Whether `conv` may be cut, by hand. Twice reads each channel at two places, Outer multiplies by a gate that is cut with it,
# Multiplier has a block of two filters per channel, LearnedInput's gate goes with the channels it multiplies, GroupNorm norms each half
# by itself, and all channels of SingleBroadcast are multiplied by the same one.
MAY_BE_CUT = {"Twice", "Outer", "Multiplier", "Remembering", "LearnedInput", "GroupNorm", "SingleBroadcast"}


@pytest.mark.parametrize("name", AWKWARD)
def test_groups_that_tracing_misreads_are_locked_with_a_reason(name: str) -> None:
    network = randomised(AWKWARD[name]())
    space = lock_inexact(network, trace_space(network, images(2)), images(2))
    free = {group.name for group in space.free}
    assert ("conv" in free) == (name in MAY_BE_CUT)
    assert ("conv2" in free) == (name != "WeightNorm")
    assert all(group.locked != "" for group in space.groups)


def test_the_reason_says_whether_removal_crashes_or_changes_the_result() -> None:
    reasons = {}
    for name in ("ImageResidual", "Softmax", "Tied", "SizedLayer", "Buffer"):
        network = randomised(AWKWARD[name]())
        groups = lock_inexact(network, trace_space(network, images(2)), images(2)).groups
        reasons[name] = next(group.locked for group in groups if group.name == "conv") or ""
    assert "cannot be removed (RuntimeError: The size of tensor" in reasons["ImageResidual"]
    assert reasons["ImageResidual"].endswith(", raised in the network's own code)")
    assert reasons["Buffer"].endswith(", raised in the network's own code, which holds scale [1, 4, 1, 1])")
    assert reasons["SizedLayer"].endswith(", raised in body.sized)")
    assert "changes the result" in reasons["Softmax"]
    assert "shares a weight" in reasons["Tied"]


def test_weights_that_give_nan_are_not_blamed_on_the_groups() -> None:
    network = randomised(ZOO["chain"].network())
    space = trace_space(network, images(2))
    nn.init.constant_(network.get_parameter("conv1.bias"), float("nan"))
    with pytest.raises(ProofError, match="NaN"):
        lock_inexact(network, space, images(2))


def test_a_real_option_a_network_has_three_streams_and_nine_inner_groups() -> None:
    space = trace_space(build(Model(arch="resnet20", num_classes=10)).eval(), torch.randn(2, 3, 32, 32))
    # three stages of three blocks with 16, 32 and 64 channels between their two convolutions, and on the stream
    inner = {f"layer{stage}.{block}.conv1": 8 * 2**stage for stage in (1, 2, 3) for block in range(3)}
    streams = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert {group.name: group.channels for group in space.free} == {**inner, **streams}
    assert [group.name for group in space.groups if group.locked] == ["linear"]
    ends = [(m.side, group.name) for group in space.free for m in group.members if m.layer == "layer2.0.shortcut"]
    assert ends == [("in", "conv1"), ("out", "layer2.0.conv2")]


def test_a_network_that_cannot_be_traced_as_a_whole_is_traced_in_parts() -> None:
    network = randomised(torchvision.models.shufflenet_v2_x0_5(num_classes=3))
    x = torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0))
    with pytest.raises(NetworkError, match=r"ShuffleNetV2 cannot be traced .* ZeroDivisionError"):
        trace_groups(network, (x,))
    space = lock_inexact(network, trace_space(network, x), x)
    units = [f"stage{stage}.{unit}" for stage, last in ((2, 4), (3, 8), (4, 4)) for unit in range(last)]
    assert [group.name for group in space.free] == [f"{unit}.branch2.0" for unit in units]
    assert {m.layer for m in space.free[0].members} == {f"stage2.0.branch2.{i}" for i in (0, 1, 3, 4, 5)}
    assert {group.locked for group in space.groups if group.locked} == {
        "lies outside the parts of the network that can be traced"
    }
    state = random_state(space, 3)
    require_equal(
        compare_logits(masked_forward(network, space, state, x), remove_channels(network, state, space)(x), "both")
    )


def test_views_that_multiply_channels_without_end_lock_only_the_groups_that_pass_them() -> None:
    network = randomised(SwinTransformer([2, 2], 8, [2], [2], [4, 4], num_classes=3))
    x = torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0))
    space = lock_inexact(network, trace_space(network, x), x)
    locked = {group.name: group.locked or "" for group in space.groups}
    assert "views" in locked["features.0.0"]
    assert [group.name for group in space.free] == ["features.1.0.mlp.0", "features.1.1.mlp.0"]


def test_ignore_locks_every_group_that_a_glob_touches() -> None:
    space = trace_space(
        ZOO["residual"].network(), images(2), ["bn2"]
    )  # bn2 is on the stream, of which stem is the first
    assert [group.name for group in space.free] == ["conv1"]
    locked = next(group.locked for group in space.groups if group.name == "stem")
    assert locked == "constraints.ignore has 'bn2', which matches bn2"
    assert trace_space(ZOO["chain"].network(), images(2), ["conv*"]).genes == 0


def test_only_locks_every_group_that_no_glob_touches() -> None:
    space = trace_space(ZOO["residual"].network(), images(2), only=["bn2"])  # on the stream, of which stem is the first
    assert [group.name for group in space.free] == ["stem"]
    assert (
        next(group.locked for group in space.groups if group.name == "conv1")
        == "none of its layers is in constraints.only"
    )
    assert trace_space(ZOO["residual"].network(), images(2), ["stem"], ["bn2"]).genes == 0
    with pytest.raises(RecipeError, match=r"constraints.only: 'layer9\.\*' matches no layer"):
        trace_space(ZOO["chain"].network(), images(2), only=["layer9.*"])


def test_a_glob_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'layer9\.\*' matches no layer"):
        trace_space(ZOO["chain"].network(), images(2), ["conv1", "layer9.*"])


@pytest.mark.parametrize("key", ["ignore", "only"])
def test_a_glob_that_matches_only_a_block_is_refused_with_one_that_matches_its_layers(key: str) -> None:
    network, x = build(Model(arch="resnet8", num_classes=10)).eval(), torch.randn(2, 3, 16, 16)
    message = rf"constraints\.{key}: 'layer3' matches no layer, only 'layer3', which holds layers: write 'layer3\.\*'; .* 'conv1'"
    with pytest.raises(RecipeError, match=message):
        trace_space(network, x, **{key: ["layer3"]})
    assert trace_space(network, x, **{key: ["layer3.*"]}).genes > 0


def test_a_network_that_cannot_take_the_example_is_named() -> None:
    with pytest.raises(NetworkError, match=r"Chain cannot be traced with an input of shape \(2, 5, 8, 8\)"):
        trace_space(ZOO["chain"].network(), torch.randn(2, 5, 8, 8))


def test_genes_are_ordered_by_group() -> None:
    space = trace_space(ZOO["concat"].network(), images(2))
    assert [(group.name, part) for group, part in space.slices()] == [
        ("a", slice(0, 4)),
        ("b", slice(4, 6)),
        ("join", slice(6, 10)),
    ]
    assert space.group_of_gene.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert space.full_state().tolist() == [True] * 10
    assert PruningSpace.model_validate_json(space.model_dump_json()) == space


def test_members_map_positions_to_channels() -> None:
    space = trace_space(ZOO["flatten"].network(), images(2))
    reader = next(m for m in space.free[0].members if m.side == "in")
    assert reader.layer == "fc1"  # 4 channels of 2 x 2 pixels
    assert dict(zip(reader.positions, reader.channels, strict=True)) == {i: i // 4 for i in range(16)}


class _NormAcross(Tail):
    """A norm with groups of two channels over branches of one channel and three."""

    def __init__(self) -> None:
        super().__init__(4)
        self.a, self.b, self.norm = conv(3, 1), conv(3, 3), nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))))


def test_a_norm_with_groups_across_layers_is_named() -> None:
    space = trace_space(randomised(_NormAcross()), images(2))
    reason = "norm is a GroupNorm with groups of 2 channels that lie across several layers"
    assert [group.locked for group in space.groups if group.name in "ab"] == [reason, reason]


class _GhostAndBranch(Tail):
    """Of eight channels three are there twice (i and 3 + i), two once."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.cheap, self.b, self.short = conv(3, 3), conv(3, 3, groups=3), conv(3, 2), conv(3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        return self.classify(F.relu(torch.cat([y, self.cheap(y), self.b(x)], 1) + self.short(x)))


def test_channels_with_one_position_and_with_two_are_two_groups() -> None:
    network = randomised(_GhostAndBranch())
    space = lock_inexact(network, trace_space(network, images(2)), images(2))
    assert {group.name: group.channels for group in space.free} == {"a": 3, "b": 2}
    reads = {m.positions: m.channels for group in space.free for m in group.members if m.layer == "fc"}
    assert reads == {(0, 1, 2, 3, 4, 5): (0, 1, 2, 0, 1, 2), (6, 7): (0, 1)}


class _Spread(Tail):
    """Two groups that are exact alone; `far` reads the channels of the image and is not."""

    def __init__(self) -> None:
        super().__init__(5)
        self.near, self.far, self.join = conv(3, 4), conv(3, 3), conv(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(F.relu(self.join(torch.cat([self.near(x), self.far(x) * x], 1))))


def test_one_inexact_group_does_not_lock_its_neighbours() -> None:
    network = randomised(_Spread())
    traced = trace_space(network, images(2))
    assert [group.name for group in traced.free] == ["near", "far", "join"]
    assert [group.name for group in lock_inexact(network, traced, images(2)).free] == ["near", "join"]


@pytest.mark.parametrize(
    "member",
    [
        {"positions": [0, 1], "channels": [0, 2]},
        {"positions": [0, 1], "channels": [-1, 0]},
        {"positions": [0], "channels": [0, 1]},
        {"positions": [-1, 0], "channels": [0, 1]},
        {"positions": [0, 10**30], "channels": [0, 1]},
    ],
)
def test_an_inconsistent_group_is_refused(member: dict[str, list[int]]) -> None:
    group = {
        "name": "g",
        "channels": 2,
        "members": [{"layer": "conv", "side": "out", "positions": [0, 1], "channels": [0, 1]}],
    }
    assert PruningSpace.model_validate({"groups": [group]}).genes == 2
    group["members"][0] |= member  # type: ignore[index]
    with pytest.raises(ValidationError, match=r"g: conv has|is too large"):
        PruningSpace.model_validate({"groups": [group]})
