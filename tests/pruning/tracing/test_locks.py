"""Channels in a network's own code: free where they can be removed, else locked with the true reason."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Tail, conv, images, randomised

from edcompress.pruning.space.space import Group, Member
from edcompress.pruning.tracing.locks import Locks
from edcompress.pruning.tracing.probe import lock_inexact
from edcompress.pruning.tracing.tracing import trace_space


class Between(Tail):
    """conv(3, 4), the given code, conv2(`width`, 5) and the classifier."""

    def __init__(self, code: Callable[["Between", Tensor], Tensor], width: int = 4) -> None:
        super().__init__(5)
        self.code, self.conv, self.conv2 = code, conv(3, 4), conv(width, 5)
        self.gate, self.spatial, self.along = conv(4, 1), conv(2, 1), nn.Conv1d(1, 1, 3, padding=1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.conv2(self.code(self, F.relu(self.conv(x))))))


def reason(network: nn.Module, group: str = "conv") -> str | None:
    """Return why the group is locked, or None."""
    network = randomised(network)
    groups = lock_inexact(network, trace_space(network, images(2)), images(2)).groups
    return next(g.locked for g in groups if g.name == group)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def swapped(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    return torch.cat(parts[::-1], dim)


@pytest.mark.parametrize(
    "code",
    [
        lambda _, x: sum(x.split(4, 2)),
        lambda _, x: swapped(x.split([6, 2], 2), 2),
        lambda _, x: swapped(x.split([3, 5], -2), 2),
        lambda _, x: sum(x.chunk(2, -1)),
        lambda _, x: torch.stack(x.unbind(2)[::-1], 2),
        lambda _, x: swapped(tokens(x).split([1, 63], 1), 1).transpose(1, 2).view_as(x),
        lambda _, x: swapped((tokens(x)[:, :5], tokens(x)[:, 5:]), 1).transpose(1, 2).reshape(x.shape),
        lambda net, x: x * torch.sigmoid(net.gate(x)),
    ],
)
def test_splits_of_rows_and_tokens_and_a_stretched_channel_lock_nothing(
    code: Callable[[Between, Tensor], Tensor],
) -> None:
    assert reason(Between(code)) is None


def coordinates(x: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return torch.stack([rows, columns]).expand(len(x), 2, 8, 8)


def along_channels(net: Between, x: Tensor) -> Tensor:
    return x * torch.sigmoid(net.along(x.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1)


def over_channels(net: Between, x: Tensor) -> Tensor:
    return x * torch.sigmoid(net.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


@pytest.mark.parametrize(
    ("code", "width", "words"),
    [
        (lambda _, x: x[:, :2] * x[:, 2:], 2, "is split into fixed parts"),
        (
            lambda _, x: torch.cat([x, coordinates(x)], 1),
            6,
            r"some that no layer makes \(the image, coordinates, a constant\)",
        ),
        (lambda _, x: torch.cat([coordinates(x), x], 1), 6, "some that no layer makes"),
        (lambda _, x: F.pixel_unshuffle(x, 2), 16, "rearranges its channels by pixel_unshuffle"),
        (lambda _, x: F.pixel_shuffle(x, 2), 1, "by pixel_shuffle"),
        (lambda _, x: x.repeat(1, 2, 1, 1), 8, "by repeat"),
        (lambda _, x: F.pad(x, (0, 0, 0, 0, 1, 1)), 6, "pads its channels by a fixed number"),
        (over_channels, 4, "takes the m(ean|aximum) over all of its channels"),
        (along_channels, 4, "along has 1 input channel and is given all of its channels"),
        (
            lambda net, x: F.linear(x.transpose(1, 3), 2 * net.linear.weight).transpose(1, 3),
            4,
            "the weight of linear and does",
        ),
    ],
)
def test_a_reason_names_the_layer_or_the_operation(
    code: Callable[[Between, Tensor], Tensor], width: int, words: str
) -> None:
    assert re.search(words, reason(Between(code, width)) or "free")


class Cosine(Between):
    """The classifier's weight is used without the classifier."""

    def __init__(self) -> None:
        super().__init__(lambda _, x: x)

    def classify(self, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), F.normalize(self.fc.weight))


def test_a_layer_whose_weight_is_used_without_calling_it_is_named() -> None:
    found = reason(Cosine(), "conv2")
    assert found == (
        "the network's code computes with the weight of fc and does not call the layer, so that surgery cannot cut it: call fc, and "
        "compute its weight in a parametrization"
    )


def feeding(name: str, positions: range) -> Group:
    """The four channels of a convolution, which `read` takes at some positions."""
    four = tuple(range(4))
    members = (
        Member(layer=name, side="out", positions=four, channels=four),
        Member(layer="read", side="in", positions=tuple(positions), channels=four[: len(positions)]),
    )
    return Group(name=name, channels=4, members=members)


@pytest.mark.parametrize(
    ("first", "second", "locked"),
    [
        (range(4), range(4, 8), False),
        (range(4), range(4), True),  # and nothing at 4 to 7
        (range(4), range(3, 7), True),
        (range(4), range(4, 7), True),
    ],
)
def test_groups_that_overlap_or_leave_a_gap_are_locked(first: range, second: range, locked: bool) -> None:
    network = nn.ModuleDict({"a": conv(3, 4), "b": conv(3, 4), "read": conv(8, 5)})
    groups = [feeding("a", first), feeding("b", second)]
    reasons = [Locks(network, [(group, None) for group in groups], (), ()).reason(group) for group in groups]
    words = "couples only a part of the input channels of read"
    assert [(reason or "").startswith(words) for reason in reasons] == [locked, locked]


def test_groups_that_overlap_where_all_channels_are_covered_are_locked() -> None:
    network = nn.ModuleDict({"a": conv(3, 4), "b": conv(3, 4), "read": conv(4, 5)})
    groups = [feeding("a", range(4)), feeding("b", range(4))]
    locks = Locks(network, [(group, None) for group in groups], (), ())
    assert all("couples only a part" in (locks.reason(group) or "") for group in groups)
    assert Locks(network, [(groups[0], None)], (), ()).reason(groups[0]) is None
