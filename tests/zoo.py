"""Tiny networks, one per wiring, with what can be pruned of each worked out by hand.

Every network takes images [N, 3, 8, 8] and gives logits [N, 3]. `drops` is one chosen state, as the channels dropped per group;
`zeros` are the input positions of consumer weights that its mask makes zero, `shapes` the tensors after surgery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from edcompress.networks.load_pruned import PaddedShortcut, SelfAttention

INPUT = (3, 8, 8)


@dataclass(frozen=True)
class Wiring:
    """One network and its facts: free groups (name: channels) in order, locked groups (name: a word of the reason)."""

    network: Callable[[], nn.Module]
    free: dict[str, int]
    locked: dict[str, str]
    drops: dict[str, tuple[int, ...]]
    zeros: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the image size (unless a stride is given)."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def images(n: int = 4, seed: int = 0) -> Tensor:
    """Random images [n, 3, 8, 8]."""
    return torch.randn(n, *INPUT, generator=Generator().manual_seed(seed))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with random tensors throughout: batch-norm scales of both signs, biases and running means that are
    mostly above zero, so that few channels are dead."""
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() > 1:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(0.5 + 0.5 * noise)
    return network.eval()


class Tail(nn.Module):
    """What every network ends with: global average pooling and the classifier `fc`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Chain(Tail):
    def __init__(self) -> None:
        super().__init__(6)
        self.conv1, self.bn1 = conv(3, 4), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv(4, 6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.classify(F.relu(self.bn2(self.conv2(x))))


class Residual(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.stem, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = conv(4, 5), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = conv(5, 4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        return self.classify(F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


class Padding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


class OptionA(Tail):
    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__(6)
        self.stem, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = conv(4, 6, stride=2), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = conv(6, 6), nn.BatchNorm2d(6)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.classify(F.relu(y + self.shortcut(x)))


class Concat(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.a, self.b = conv(3, 4), conv(3, 2)
        self.bn, self.join = nn.BatchNorm2d(6), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.join(F.relu(self.bn(torch.cat([self.a(x), self.b(x)], 1))))))


class Ghost(Tail):
    """Half of the channels are made from the other half (GhostNet), and all are added to a shortcut."""

    def __init__(self) -> None:
        super().__init__(6)
        self.short, self.bn, self.primary, self.cheap = conv(3, 6), nn.BatchNorm2d(6), conv(3, 3), conv(3, 3, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.primary(x))
        return self.classify(F.relu(torch.cat([y, self.cheap(y)], 1) + self.bn(self.short(x))))


class Branches(Tail):
    """Two branches, joined and added to a shortcut as wide as both."""

    def __init__(self) -> None:
        super().__init__(6)
        self.short, self.bn, self.a, self.b = conv(3, 6), nn.BatchNorm2d(6), conv(3, 4), conv(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(torch.cat([self.a(x), self.b(x)], 1) + self.bn(self.short(x))))


class DepthwiseOfBranches(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.a, self.b = conv(3, 4), conv(3, 2)
        self.depthwise, self.bn, self.pointwise = conv(6, 6, groups=6), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.depthwise(F.relu(torch.cat([self.a(x), self.b(x)], 1)))))
        return self.classify(F.relu(self.pointwise(x)))


class Split(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv, self.left, self.right = conv(3, 6), conv(3, 4), conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).chunk(2, 1)
        return self.classify(F.relu(self.left(left) + self.right(right)))


class SplitUnevenly(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv, self.left, self.right = conv(3, 6), conv(2, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).split((2, 4), 1)
        return self.classify(F.relu(self.left(left) + self.right(right)))


class Gated(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.conv, self.bn, self.last = conv(3, 6), nn.BatchNorm2d(6), conv(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.bn(self.conv(x)).chunk(2, 1)
        return self.classify(F.relu(self.last(value * torch.sigmoid(gate))))


class GatedTokens(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv, self.norm, self.fc1, self.fc2 = conv(3, 4), nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(3, 4)
        self.places = nn.Parameter(torch.zeros(1, 64, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2) + self.places
        value, gate = self.fc1(self.norm(tokens)).chunk(2, -1)
        logits: Tensor = self.fc((tokens + self.fc2(F.silu(gate) * value)).mean(1))
        return logits


class Depthwise(Tail):
    def __init__(self) -> None:
        super().__init__(6)
        self.conv, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.depthwise, self.bn1 = conv(4, 4, groups=4), nn.BatchNorm2d(4)
        self.pointwise = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.depthwise(F.relu6(self.bn(self.conv(x))))))
        return self.classify(F.relu(self.pointwise(x)))


class Grouped(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.conv, self.grouped, self.last = conv(3, 4), conv(4, 6, groups=2), conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.last(F.relu(self.grouped(F.relu(self.conv(x)))))))


class GroupedInARow(Tail):
    def __init__(self) -> None:
        super().__init__(8)
        self.conv, self.four, self.bn, self.two = (
            conv(3, 8),
            conv(8, 8, groups=4),
            nn.BatchNorm2d(8),
            conv(8, 8, groups=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.two(F.relu(self.bn(self.four(F.relu(self.conv(x))))))))


class GroupedAfterConcat(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.a, self.b, self.grouped, self.last = conv(3, 2), conv(3, 4), conv(6, 6, groups=2), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(torch.cat([self.a(x), self.b(x)], 1))))
        return self.classify(F.relu(self.last(x)))


class GroupedInConcat(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.conv, self.grouped, self.last = conv(3, 4), conv(4, 4, groups=2), conv(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.classify(F.relu(self.last(torch.cat([x, F.relu(self.grouped(x))], 1))))


class TwoNames(Tail):
    """Layers that are registered again, as a part of another module."""

    def __init__(self) -> None:
        super().__init__(6)
        self.conv1, self.bn, self.conv2 = conv(3, 4), nn.BatchNorm2d(4), conv(4, 6)
        self.body = nn.Sequential(self.conv1, self.bn, nn.ReLU(), self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.body(x)))


class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = conv(3, 4), nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return logits


class Shared(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.shared = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.shared(F.relu(self.first(x))))
        return self.classify(F.relu(self.shared(x)))


class SqueezeExcite(Tail):
    def __init__(self) -> None:
        super().__init__(4)
        self.conv, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.conv(x)))
        gate = torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.classify(x * gate)


class NoBatchNorm(Tail):
    """A sigmoid of nothing is 0.5, so a channel that is only zeroed at its producer still speaks."""

    def __init__(self) -> None:
        super().__init__(5)
        self.conv1, self.conv2 = conv(3, 4), conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(torch.sigmoid(self.conv2(torch.sigmoid(self.conv1(x)))))


class GroupNorm(Tail):
    """Norms of six groups and of three on one stream, and a norm of one group."""

    def __init__(self) -> None:
        super().__init__(6)
        self.conv, self.six, self.inner = conv(3, 12), nn.GroupNorm(6, 12), conv(12, 4)
        self.one, self.back, self.three, self.last = nn.GroupNorm(1, 4), conv(4, 12), nn.GroupNorm(3, 12), conv(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.six(self.conv(x)))
        x = F.relu(self.three(x + self.back(F.relu(self.one(self.inner(x))))))
        return self.classify(F.relu(self.last(x)))


class GroupNormOfBlocks(Tail):
    def __init__(self) -> None:
        super().__init__(8)
        self.conv, self.grouped, self.norm = conv(3, 4), conv(4, 8, groups=4), nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.norm(self.grouped(F.relu(self.conv(x))))))


class Blur(nn.Module):
    """A filter for each channel in a buffer, and their number where its code reads it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.pad = channels, nn.ReflectionPad2d(1)
        self.register_buffer("kernel", torch.ones(channels, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel
        assert isinstance(kernel, Tensor)
        return F.conv2d(self.pad(x), kernel, stride=2, groups=self.channels)


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[:, None, None]


class Channelwise(Tail):
    """Layers that torch does not have, which work channel by channel."""

    def __init__(self) -> None:
        super().__init__(5)
        self.conv1, self.frozen, self.blur = conv(3, 4), FrozenBatchNorm2d(4), Blur(4)
        self.conv2, self.scale = conv(4, 5), Scale(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blur(F.relu(self.frozen(self.conv1(x))))
        return self.classify(F.relu(self.scale(self.conv2(x))))


class LayerNorm(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.conv1, self.norm, self.conv2 = conv(3, 4), nn.LayerNorm(4), conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.classify(F.relu(self.conv2(x)))


class TwoInputs(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.a, self.b, self.c = conv(3, 4), conv(3, 4), conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.c(F.relu(self.a(x) + self.b(x)))))


class Prelu(Tail):
    def __init__(self) -> None:
        super().__init__(5)
        self.conv1, self.each, self.conv2, self.one = conv(3, 4), nn.PReLU(4), conv(4, 5), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.one(self.conv2(self.each(self.conv1(x)))))


class Tokens(Tail):
    """A residual attention over the pixels: four values for each, two heads of three."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(4)
        self.stem, self.attention = nn.Conv2d(3, 4, 1), attention

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc((tokens + self.attend(tokens)).mean(1))  # type: ignore[no-any-return]

    def attend(self, tokens: Tensor) -> Tensor:
        attended: Tensor = self.attention(tokens)
        return attended


class Multihead(Tokens):
    def __init__(self) -> None:
        super().__init__(SelfAttention(nn.MultiheadAttention(4, 2, batch_first=True)))

    def attend(self, tokens: Tensor) -> Tensor:
        attended: Tensor = self.attention(tokens, tokens, tokens)[0]
        return attended


class FusedAttention(nn.Module):
    """As timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = 2, 3, 6
        self.qkv, self.proj = nn.Linear(4, 18, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], self.attn_dim)
        attended: Tensor = self.proj(x)
        return attended


class RelativeAttention(FusedAttention):
    """With a bias for each head and distance of two pixels along the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(15, 2))
        rows = torch.arange(64) // 8
        self.register_buffer("index", rows[:, None] - rows + 7)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index].permute(2, 0, 1).contiguous()
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        attended: Tensor = self.proj(x)
        return attended


_FC = {"fc": "outputs"}

ZOO = {
    "chain": Wiring(
        Chain, {"conv1": 4, "conv2": 6}, _FC, {"conv1": (1,), "conv2": (0, 5)},
        zeros={"conv2.weight": (1,), "fc.weight": (0, 5)},
        shapes={"conv1.weight": (3, 3, 3, 3), "conv1.bias": (3,), "bn1.running_var": (3,), "conv2.weight": (4, 3, 3, 3),
                "bn2.weight": (4,), "fc.weight": (3, 4)},
    ),
    "residual": Wiring(  # the stream is written by stem and conv2, and read by conv1 and fc
        Residual, {"stem": 4, "conv1": 5}, _FC, {"stem": (2,), "conv1": (0, 4)},
        zeros={"conv1.weight": (2,), "fc.weight": (2,), "conv2.weight": (0, 4)},
        shapes={"stem.weight": (3, 3, 3, 3), "bn2.bias": (3,), "conv1.weight": (3, 3, 3, 3), "conv2.weight": (3, 3, 3, 3)},
    ),
    "option_a": Wiring(  # channel i of the stem is added to channel 1 + i of conv2, where both are left
        lambda: OptionA(PaddedShortcut(4, 6, stride=2)), {"stem": 4, "conv1": 6, "conv2": 6}, _FC,
        {"stem": (1,), "conv1": (0, 3), "conv2": (0, 3)},
        zeros={"conv1.weight": (1,), "conv2.weight": (0, 3), "shortcut.route": (1,), "fc.weight": (0, 3)},
        shapes={"conv1.weight": (4, 3, 3, 3), "conv2.weight": (4, 4, 3, 3), "stem.weight": (3, 3, 3, 3), "fc.weight": (3, 4)},
    ),
    "padded_by_code": Wiring(  # the same in the network's own code, where no layer tells which channel goes where
        lambda: OptionA(Padding()), {"conv1": 6}, {"stem": "pads", **_FC}, {"conv1": (0, 3)},
        zeros={"conv2.weight": (0, 3)},
        shapes={"conv1.weight": (4, 4, 3, 3), "conv2.weight": (6, 4, 3, 3), "stem.weight": (4, 3, 3, 3)},
    ),
    "concat": Wiring(  # a is at positions 0..3 of join, b at 4 and 5
        Concat, {"a": 4, "b": 2, "join": 4}, _FC, {"a": (0,), "b": (1,), "join": (3,)},
        zeros={"join.weight": (0, 5), "fc.weight": (3,)},
        shapes={"a.weight": (3, 3, 3, 3), "b.weight": (1, 3, 3, 3), "bn.running_mean": (4,), "join.weight": (3, 4, 3, 3)},
    ),
    "ghost": Wiring(  # primary's channel i is at i and, made cheap, at 3 + i of the sum
        Ghost, {"short": 3}, _FC, {"short": (1,)},
        zeros={"fc.weight": (1, 4)},
        shapes={"short.weight": (4, 3, 3, 3), "bn.weight": (4,), "primary.weight": (2, 3, 3, 3), "cheap.weight": (2, 1, 3, 3)},
    ),
    "branches": Wiring(  # short's channels 0 to 3 go with a, 4 and 5 with b: each branch keeps one at least
        Branches, {"a": 4, "b": 2}, _FC, {"a": (0, 2, 3), "b": (0,)},
        zeros={"fc.weight": (0, 2, 3, 4)},
        shapes={"short.weight": (2, 3, 3, 3), "bn.weight": (2,), "a.weight": (1, 3, 3, 3), "b.weight": (1, 3, 3, 3), "fc.weight": (3, 2)},
    ),
    "depthwise_of_branches": Wiring(  # a is at positions 0..3 of depthwise, b at 4 and 5
        DepthwiseOfBranches, {"a": 4, "b": 2, "pointwise": 4}, _FC, {"a": (1, 2, 3), "b": (1,), "pointwise": (0,)},
        zeros={"pointwise.weight": (1, 2, 3, 5), "fc.weight": (0,)},
        shapes={"a.weight": (1, 3, 3, 3), "b.bias": (1,), "depthwise.weight": (2, 1, 3, 3), "bn.bias": (2,), "pointwise.bias": (3,)},
    ),
    "split": Wiring(  # halves, which stay halves when channel 0 goes with 3, 1 with 4, 2 with 5
        Split, {"conv": 3, "left": 4}, _FC, {"conv": (1,), "left": (0, 2)},
        zeros={"left.weight": (1,), "right.weight": (1,), "fc.weight": (0, 2)},
        shapes={"conv.weight": (4, 3, 3, 3), "left.weight": (2, 2, 3, 3), "right.weight": (2, 2, 3, 3)},
    ),
    "split_unevenly": Wiring(  # two channels and four
        SplitUnevenly, {"left": 4}, {"conv": "split", **_FC}, {"left": (0, 2)},
        zeros={"fc.weight": (0, 2)}, shapes={"conv.weight": (6, 3, 3, 3), "left.weight": (2, 2, 3, 3), "right.weight": (2, 4, 3, 3)},
    ),
    "gated": Wiring(  # the second half of the channels gates the first
        Gated, {"conv": 3, "last": 5}, _FC, {"conv": (0, 2), "last": (1,)},
        zeros={"last.weight": (0, 2), "fc.weight": (1,)},
        shapes={"conv.weight": (2, 3, 3, 3), "bn.weight": (2,), "last.weight": (4, 1, 3, 3)},
    ),
    "gated_tokens": Wiring(  # hidden units 0 to 2 are gated by 3 to 5; the stream is normed over all its channels, and places are added
        GatedTokens, {"fc1": 3}, {"conv": "places", **_FC}, {"fc1": (1,)},
        zeros={"fc2.weight": (1,)}, shapes={"fc1.weight": (4, 4), "fc1.bias": (4,), "fc2.weight": (4, 2)},
    ),
    "depthwise": Wiring(
        Depthwise, {"conv": 4, "pointwise": 6}, _FC, {"conv": (3,), "pointwise": (1, 2)},
        zeros={"pointwise.weight": (3,), "fc.weight": (1, 2)},
        shapes={"depthwise.weight": (3, 1, 3, 3), "bn1.weight": (3,), "pointwise.weight": (4, 3, 1, 1)},
    ),
    "grouped": Wiring(  # blocks: channels 0 and 1 of conv with 0 to 2 of grouped, and 2 and 3 with 3 to 5
        Grouped, {"conv": 2, "last": 5}, _FC, {"conv": (0,), "last": (4,)},
        zeros={"last.weight": (0, 1, 2), "fc.weight": (4,)},
        shapes={"conv.weight": (2, 3, 3, 3), "grouped.weight": (3, 2, 3, 3), "grouped.bias": (3,), "last.weight": (4, 3, 3, 3)},
    ),
    "grouped_in_a_row": Wiring(  # four groups and two of eight channels: blocks are halves of four
        GroupedInARow, {"conv": 2}, _FC, {"conv": (1,)},
        zeros={"fc.weight": (4, 5, 6, 7)},
        shapes={"conv.weight": (4, 3, 3, 3), "four.weight": (4, 2, 3, 3), "bn.weight": (4,), "two.weight": (4, 4, 3, 3)},
    ),
    "grouped_after_concat": Wiring(  # the first block takes all of a and a part of b
        GroupedAfterConcat, {"last": 4}, {"a": "block by block", "b": "block by block", "grouped": "block by block", **_FC}, {"last": (2,)},
        zeros={"fc.weight": (2,)}, shapes={"last.weight": (3, 6, 3, 3)},
    ),
    "grouped_in_concat": Wiring(  # both blocks stand twice in what last takes: at 0 to 3 and at 4 to 7
        GroupedInConcat, {"conv": 2, "last": 5}, _FC, {"conv": (0,), "last": (4,)},
        zeros={"last.weight": (0, 1, 4, 5), "fc.weight": (4,)},
        shapes={"conv.weight": (2, 3, 3, 3), "grouped.weight": (2, 2, 3, 3), "last.weight": (4, 4, 3, 3)},
    ),
    "two_names": Wiring(
        TwoNames, {"conv1": 4, "conv2": 6}, _FC, {"conv1": (1,), "conv2": (0, 5)},
        zeros={"conv2.weight": (1,), "fc.weight": (0, 5)},
        shapes={"conv1.weight": (3, 3, 3, 3), "body.0.weight": (3, 3, 3, 3), "body.1.running_var": (3,), "body.3.weight": (4, 3, 3, 3)},
    ),
    "flatten": Wiring(  # each channel is 2 x 2 features: channel 1 is features 4..7
        Flatten, {"conv": 4, "fc1": 6}, {"fc2": "outputs"}, {"conv": (1,), "fc1": (0,)},
        zeros={"fc1.weight": (4, 5, 6, 7), "fc2.weight": (0,)}, shapes={"fc1.weight": (5, 12), "fc1.bias": (5,), "fc2.weight": (3, 5)},
    ),
    "shared": Wiring(  # what the shared layer gives it also takes, so its inputs, its outputs and `first` are one group
        Shared, {"first": 4}, _FC, {"first": (1,)},
        zeros={"shared.weight": (1,), "fc.weight": (1,)}, shapes={"shared.weight": (3, 3, 3, 3), "first.weight": (3, 3, 3, 3)},
    ),
    "squeeze_excite": Wiring(  # the gate multiplies channel by channel
        SqueezeExcite, {"conv": 4, "down": 2}, _FC, {"conv": (0, 2), "down": (1,)},
        zeros={"down.weight": (0, 2), "fc.weight": (0, 2), "up.weight": (1,)},
        shapes={"down.weight": (1, 2, 1, 1), "up.weight": (2, 1, 1, 1), "up.bias": (2,)},
    ),
    "no_batch_norm": Wiring(
        NoBatchNorm, {"conv1": 4, "conv2": 5}, _FC, {"conv1": (0, 1, 2), "conv2": (4,)},
        zeros={"conv2.weight": (0, 1, 2), "fc.weight": (4,)}, shapes={"conv1.bias": (1,), "conv2.weight": (4, 1, 3, 3)},
    ),
    "layer_norm": Wiring(  # the norm's mean runs over the channels
        LayerNorm, {"conv2": 5}, {"conv1": "LayerNorm", **_FC}, {"conv2": (0,)},
        zeros={"fc.weight": (0,)}, shapes={"conv2.weight": (4, 4, 3, 3), "norm.weight": (4,)},
    ),
    "channelwise": Wiring(  # what frozen, blur and scale hold goes with the convolution before them
        Channelwise, {"conv1": 4, "conv2": 5}, _FC, {"conv1": (1, 2), "conv2": (0,)},
        zeros={"conv2.weight": (1, 2), "fc.weight": (0,)},
        shapes={"conv1.weight": (2, 3, 3, 3), "frozen.weight": (2,), "frozen.running_var": (2,), "blur.kernel": (2, 1, 3, 3),
                "scale.factors": (4,), "conv2.weight": (4, 2, 3, 3)},
    ),
    "group_norm": Wiring(  # groups of two channels and of four: what goes together is a group of the wider ones
        GroupNorm, {"conv": 3, "last": 6}, {"inner": "one is a GroupNorm with groups of 4 channels", **_FC}, {"conv": (1,), "last": (0,)},
        zeros={"inner.weight": (4, 5, 6, 7), "last.weight": (4, 5, 6, 7), "fc.weight": (0,)},
        shapes={"conv.weight": (8, 3, 3, 3), "six.weight": (8,), "back.weight": (8, 4, 3, 3), "three.bias": (8,), "one.weight": (4,)},
    ),
    "group_norm_of_blocks": Wiring(  # two blocks of the convolution, of two channels each, are one group of the norm
        GroupNormOfBlocks, {"conv": 2}, _FC, {"conv": (0,)},
        zeros={"fc.weight": (0, 1, 2, 3)},
        shapes={"conv.weight": (2, 3, 3, 3), "grouped.weight": (4, 1, 3, 3), "norm.bias": (4,), "fc.weight": (3, 4)},
    ),
    "multihead": Wiring(  # a head is two rows of queries, two of keys, two of values
        Multihead, {"attention": 2}, {"attention.out_proj": "bare parameter", **_FC}, {"attention": (0,)},
        zeros={"attention.out_proj.weight": (0, 1)},
        shapes={"attention.in_proj_weight": (6, 4), "attention.in_proj_bias": (6,), "attention.out_proj.weight": (4, 2)},
    ),
    "fused_attention": Wiring(
        lambda: Tokens(FusedAttention()), {"stem": 4, "attention": 2}, _FC, {"stem": (3,), "attention": (1,)},
        zeros={"attention.qkv.weight": (3,), "attention.proj.weight": (3, 4, 5), "fc.weight": (3,)},
        shapes={"attention.qkv.weight": (9, 3), "attention.proj.weight": (3, 3), "attention.proj.bias": (3,)},
    ),
    "relative_attention": Wiring(  # a head's biases are a column of the table
        lambda: Tokens(RelativeAttention()), {"stem": 4, "attention": 2}, _FC, {"stem": (3,), "attention": (1,)},
        zeros={"attention.qkv.weight": (3,), "attention.proj.weight": (3, 4, 5), "attention.table": (1,), "fc.weight": (3,)},
        shapes={"attention.qkv.weight": (9, 3), "attention.proj.weight": (3, 3), "attention.table": (15, 1)},
    ),
    "two_inputs": Wiring(
        TwoInputs, {"a": 4, "c": 5}, _FC, {"a": (0, 1), "c": (2,)},
        zeros={"c.weight": (0, 1), "fc.weight": (2,)},
        shapes={"a.weight": (2, 3, 3, 3), "b.weight": (2, 3, 3, 3), "c.weight": (4, 2, 3, 3)},
    ),
    "prelu": Wiring(
        Prelu, {"conv1": 4, "conv2": 5}, _FC, {"conv1": (3,), "conv2": (0, 1)},
        zeros={"conv2.weight": (3,), "fc.weight": (0, 1)}, shapes={"each.weight": (3,), "one.weight": (1,)},
    ),
}  # fmt: skip
