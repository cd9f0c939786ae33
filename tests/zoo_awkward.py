"""Networks that tracing misreads: each of their groups must end exact or locked with a reason, never wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Tail, conv


class Between(Tail):
    """conv(3, 4), something in between, conv2(`width`, 5) and the classifier; `conv2` alone is always free."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(5)
        self.conv, self.conv2 = conv(3, 4), conv(width, 5)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return self.read(self.between(F.relu(self.conv(image))))

    def read(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.conv2(x)))


class ImageResidual(Between):
    """The image has no autograd node, so the sum does not tie the convolution to it."""

    def forward(self, image: Tensor) -> Tensor:
        return self.read(self.conv(image) + F.pad(image, (0, 0, 0, 0, 0, 1)))


class ImageConcat(Between):
    def __init__(self) -> None:
        super().__init__(7)

    def forward(self, image: Tensor) -> Tensor:
        return self.read(torch.cat([self.conv(image), image], 1))


class ImageConcatFirst(ImageConcat):
    def forward(self, image: Tensor) -> Tensor:
        return self.read(torch.cat([image, self.conv(image)], 1))


class Shuffle(Between):
    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class BareAssert(Between):
    """Fails without a word where a channel is gone."""

    def between(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:
            raise NotImplementedError
        return x


class Softmax(Between):
    def between(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class MinMax(Between):
    """Of a single channel this is 0 / 0."""

    def __init__(self) -> None:
        super().__init__(3)
        self.conv = conv(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        return self.read((x - low) / (high - low))


class ChannelMean(Between):
    def between(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(1, keepdim=True))


class Scale(Between):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


class Buffer(Between):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, 4, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        scale = self.scale
        assert isinstance(scale, Tensor)
        return x * scale


class Sized(nn.Module):
    """A width that stands in the code of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 4, 8, 8)


class SizedLayer(Between):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"sized": Sized()})

    def between(self, x: Tensor) -> Tensor:
        sized: Tensor = self.body["sized"](x)
        return sized


class Halves(Between):
    def __init__(self) -> None:
        super().__init__(2)

    def between(self, x: Tensor) -> Tensor:
        return x[:, :2] * torch.sigmoid(x[:, 2:])


class Glu(Between):
    def __init__(self) -> None:
        super().__init__(2)

    def between(self, x: Tensor) -> Tensor:
        return F.glu(x, 1)


class FixedParts(Between):
    """Equal parts, of a width that stands in the code."""

    def __init__(self) -> None:
        super().__init__(2)

    def between(self, x: Tensor) -> Tensor:
        value, gate = x.split(2, 1)
        return value * torch.sigmoid(gate)


class CrossStage(Between):
    """One half goes through a layer, and both are joined again (CSPNet)."""

    def __init__(self) -> None:
        super().__init__(5)
        self.inner = conv(2, 3)

    def between(self, x: Tensor) -> Tensor:
        value, rest = x.chunk(2, 1)
        return torch.cat([value, F.relu(self.inner(rest))], 1)


class Hierarchy(Between):
    """Parts of a width that stands in the code, each added to what the part before became (Res2Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv(2, 2)

    def between(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, 2, 1)
        done = F.relu(self.inner(first))
        return torch.cat([done, F.relu(self.inner(done + second))], 1)


class Twice(Between):
    def __init__(self) -> None:
        super().__init__(8)

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


class Flip(Between):
    def between(self, x: Tensor) -> Tensor:
        return x + x.flip(1)


class Roll(Between):
    def between(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


class Gather(Between):
    def between(self, x: Tensor) -> Tensor:
        return x[:, [3, 2, 1, 0]]


class FixedView(Between):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 4, 64).view(-1, 4, 8, 8)


class PixelShuffle(Between):
    def __init__(self) -> None:
        super().__init__(1)

    def between(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)


class Transposed(Between):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def between(self, x: Tensor) -> Tensor:
        up: Tensor = self.up(x)
        return up


class GroupNorm(Between):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def between(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


class Rms(nn.Module):
    """A factor for each channel, of what all channels together make."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[:, None, None] / x.square().mean(1, keepdim=True).add(1e-6).sqrt()


class ForeignNorm(Between):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Rms()

    def between(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


class Mixing(nn.Module):
    """A layer of someone's own that mixes four channels into four."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,nihw->nohw", self.matrix, x)


class ForeignMixing(Between):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = Mixing()

    def between(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mixing(x)
        return mixed


class Multiplier(Between):
    """A grouped convolution with two filters per input channel."""

    def __init__(self) -> None:
        super().__init__(8)
        self.multiplier = conv(4, 8, groups=4)

    def between(self, x: Tensor) -> Tensor:
        y: Tensor = self.multiplier(x)
        return y


class Tied(Between):
    """Two layers with one and the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(4, 4), conv(4, 4)
        self.b.weight = self.a.weight

    def between(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x)) * torch.sigmoid(self.b(x))


class TiedApart(Between):
    """Two layers with one weight, and nothing but the weight ties their channels."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b = conv(4, 4), conv(4, 4)
        self.b.weight = self.a.weight

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.a(x)), self.b(x)], 1)


class WeightNorm(Between):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        self.conv2 = nn.utils.parametrizations.weight_norm(self.conv2)

    def between(self, x: Tensor) -> Tensor:
        return x


class Tokens(Between):
    """Attention over pixels with a linear layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def between(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        attended = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return x + attended.transpose(1, 2).reshape(x.shape)


class SingleBroadcast(Between):
    """A one-channel map is stretched over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(4, 1)

    def between(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class Outer(Between):
    """The gate of four channels is one linear layer over the pooled image."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.read(self.conv(image) * self.gate(image.mean((2, 3)))[:, :, None, None])


class Unused(Between):
    """Computed and thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = conv(4, 4)

    def between(self, x: Tensor) -> Tensor:
        self.aside(x)
        return x


class Remembering(Between):
    """Keeps a tensor of its last call, and with it that call's graph."""

    def between(self, x: Tensor) -> Tensor:
        self.last = 2 * x
        return x


class LearnedInput(Between):
    """A layer that takes a parameter, as a class token is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.gate = nn.Parameter(torch.ones(1, 2)), nn.Linear(2, 4)

    def between(self, x: Tensor) -> Tensor:
        return x * self.gate(self.token)[:, :, None, None]


AWKWARD = {
    kind.__name__: kind
    for kind in (
        ImageResidual, ImageConcat, ImageConcatFirst, Shuffle, Softmax, MinMax, ChannelMean, Scale, Buffer, Halves, FixedParts, CrossStage,
        Hierarchy, Glu, Twice, Flip, Roll, Gather, FixedView, PixelShuffle, Transposed, GroupNorm, ForeignNorm, ForeignMixing,
        SizedLayer, Multiplier, Tied, TiedApart, BareAssert,
        WeightNorm, Tokens, SingleBroadcast, Outer, Unused, Remembering, LearnedInput,
    )
}  # fmt: skip
