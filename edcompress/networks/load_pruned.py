"""The pruned network of a run folder, for PyTorch without edcompress.

    from load_pruned import load_pruned

    network = load_pruned()  # an nn.Module in eval mode on the CPU

`python load_pruned.py` prints its number of parameters and the shape of its logits.

load_pruned.json says how the network is built as it was before pruning, plan.json which channels of each group are kept, and space.json
where in the layers they sit. The other channels are cut out, and the tensors of pruned.safetensors loaded. Keep the five files together.
This needs torch and safetensors, and torchvision, timm or your own code where the network is from there; load_pruned.json names the
versions that the run used.

edcompress copies this file into every run folder as it is, and uses it itself: here are the layers of its own that a pruned network can
have, and the cutting of layers. Licence: Apache-2.0.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

FOLDER = Path(__file__).parent
VERSION = 1
"""The version of load_pruned.json."""


def load_pruned(folder: Path = FOLDER, network: nn.Module | None = None) -> nn.Module:
    """Return the pruned network of a run folder with its trained weights, in eval mode on the CPU.

    A run whose network was an object of a program takes one of its class as `network`, as it was before pruning, with any weights.
    """
    network = build(_read(folder / "load_pruned.json"), network)
    for (layer, dim), keep in positions_kept(_read(folder / "space.json"), _read(folder / "plan.json")).items():
        cut_side(network.get_submodule(layer), dim, torch.tensor(keep))
    state = network.state_dict()  # torch's own dictionary: it carries the version of each layer's layout
    state.update(load_file(folder / "pruned.safetensors"))
    network.load_state_dict(state)
    return network.eval()


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# How the network is built as it was before pruning


def build(description: dict[str, Any], given: nn.Module | None = None) -> nn.Module:
    """Return the network that load_pruned.json describes, as it was before pruning; a copy of `given` where it was an object."""
    if (found := description["version"]) != VERSION:
        raise ValueError(
            f"load_pruned.json has version {found}, this file reads {VERSION}; take both from one run folder"
        )
    if description["network"]["origin"] == "object":
        network = _copied(given, description["network"]["name"])
    else:
        network = _built(**description["network"], image=description["image"])
    for layer in list(network.modules()):
        materialize(layer)
    _replace_layers(network, description["layers"])
    return network


def _copied(given: nn.Module | None, name: str) -> nn.Module:
    if given is None:
        raise ValueError(
            f"the network of this run was an object of a Python program; call load_pruned(network={name}(...)) with one as it was before "
            "pruning"
        )
    return copy.deepcopy(given).cpu().eval()


def _built(origin: str, name: str, arguments: dict[str, Any], image: list[int]) -> nn.Module:
    network: nn.Module
    if origin == "edcompress":
        network = CifarResNet(**arguments)
    elif origin == "torchvision":
        network = import_module("torchvision").models.get_model(name, weights=None, **arguments)
    elif origin == "timm":
        network = import_module("timm").create_model(name, pretrained=False, **arguments)
    else:
        module, _, factory = name.partition(":")
        network = getattr(import_module(module), factory)()
        with torch.no_grad():
            network.eval()(torch.zeros(2, *image))  # makes lazy layers
    return network


def materialize(layer: nn.Module) -> None:
    """Replace the tensors that a layer computes by torch's parametrizations, norms and masks by their values, in place."""
    training = layer.training
    for tensor in list(getattr(layer, "parametrizations", ())):
        layer.eval()  # otherwise spectral_norm updates its estimate, and the weight is not the one that the network uses
        parametrize.remove_parametrizations(layer, tensor)
        layer.train(training)
    for hook in list(layer._forward_pre_hooks.values()):  # private to torch, as is _tensor_name; seen in 2.14
        if isinstance(hook, WeightNorm):
            remove_weight_norm(layer, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(layer, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]


def _replace_layers(network: nn.Module, layers: dict[str, dict[str, Any]]) -> None:
    """Replace the named layers by the described ones; a layer with several names is replaced by one."""
    old = {name: network.get_submodule(name) for name in layers}
    new: dict[nn.Module, nn.Module] = {}
    for name, layer in old.items():
        if layer not in new:
            new[layer] = _replacement(layer, **layers[name])
        network.set_submodule(name, new[layer])


def _replacement(old: nn.Module, kind: str, **arguments: Any) -> nn.Module:
    if kind == "SelfAttention":
        if not isinstance(old, nn.MultiheadAttention):
            raise TypeError(
                f"load_pruned.json replaces an nn.MultiheadAttention, and the network has a {type(old).__name__}"
            )
        return SelfAttention(old)
    home = import_module("timm.layers") if kind == "Conv2dSame" else nn
    layer: nn.Module = getattr(home, kind)(**arguments)
    return layer


# Layers of edcompress's own


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of one input, batch first, with the same parameters under the same names, whose heads can be removed.

    torch's ties the heads' width to the embedding's. Here in_proj_weight [3 x heads x head_dim, embedding] holds queries, keys and values,
    each head by head, and `num_heads` is read at every call, so that rows and heads can be removed together.
    """

    batch_first = False  # keeps torch's encoder off its fused path, which reads the tensors without calling this layer

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        """Take over the parameters of a layer that packs its projections."""
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = attention.num_heads, attention.head_dim, attention.dropout
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended tokens [B, N, embedding] of tokens [B, N, embedding], and the weights [B, N, N] where they are needed."""
        if key is not query or value is not query or key_padding_mask is not None:
            raise NotImplementedError("only self-attention without padding")
        if query.dim() != 3 or (attn_mask is not None and attn_mask.dim() != 2):
            raise NotImplementedError("only batches of tokens, and one mask [N, N] for all")
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(*query.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        dropout, bias = self.dropout if self.training else 0.0, _bias(attn_mask, q)
        if not need_weights:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            return self.out_proj(attended.transpose(1, 2).flatten(2)), None
        scores = q @ k.transpose(-1, -2) / self.head_dim**0.5
        weights = F.dropout((scores if bias is None else scores + bias).softmax(-1), dropout)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        return self.out_proj(attended), weights.mean(1) if average_attn_weights else weights


def _bias(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the term added to the scores for torch's `mask`, in which True excludes a token."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return like.new_zeros(mask.shape).masked_fill(mask, -torch.inf)


class PaddedShortcut(nn.Module):
    """Option A: subsample by `stride`, and put zero channels before and after the input's channels.

    It is computed as a fixed 1x1 convolution, whose weight [out, in, 1, 1] of zeros and ones routes input channels to output channels:
    bit for bit the padding, but surgery can cut it at either end, so that the streams of two stages can differ.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        route, inputs = torch.zeros(out_channels, in_channels, 1, 1), torch.arange(in_channels)
        route[(out_channels - in_channels) // 2 + inputs, inputs] = 1.0
        self.route: Tensor
        self.register_buffer("route", route, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.conv2d(x, self.route, stride=self.stride)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut: nn.Module = nn.Identity() if same else PaddedShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, channels, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network for small images: He et al., Deep Residual Learning (arXiv:1512.03385), section 4.2.

    A 3x3 convolution to 16 channels, three stages of n basic blocks with 16, 32 and 64 channels, global average pooling and a linear
    classifier: `depth` = 6n + 2 weighted layers. Shortcuts have no parameters (the paper's option A): where the shape changes, every
    second row and column is taken and the new channels are zero. The keys of its state are those of the public CIFAR-10 weights.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, not {depth}")
        first, second, third = 16, 32, 64
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, first, 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, num_classes)
        self.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


# How channels are cut out

_WIDTHS = {
    0: ("out_channels", "out_features", "num_features", "num_parameters", "num_heads", "attn_dim", "num_channels", "num_groups",
        "channels"),
    1: ("in_channels", "in_features"),
}  # fmt: skip
"""What layers call the number of positions along each dimension of their weight."""


def positions_kept(space: Any, plan: Any) -> dict[tuple[str, int], list[bool]]:
    """Return, for each layer and dimension (0 out, 1 in) of its tensors that loses something, which positions stay.

    `space` and `plan` are what space.json and plan.json hold.
    """
    kept = {group["name"]: set(group["kept"]) for group in plan["groups"]}
    stays: dict[tuple[str, int], dict[int, bool]] = {}
    for group in space["groups"]:
        channels = kept.get(group["name"], range(group["channels"]))  # a locked group is not in the plan
        for member in group["members"]:
            side = stays.setdefault((member["layer"], 0 if member["side"] == "out" else 1), {})
            side.update({p: c in channels for p, c in zip(member["positions"], member["channels"], strict=True)})
    return {key: [side[p] for p in sorted(side)] for key, side in stays.items() if not all(side.values())}


def cut_side(layer: nn.Module, dim: int, keep: Tensor) -> None:
    """Leave of `dim` (0 out, 1 in) of a layer's tensors only the positions that `keep` bool[n] marks, and set its widths, in place."""
    kept = keep.nonzero().flatten()
    for name, tensor in list(tensors_along(layer, dim, len(keep))):
        part = tensor.detach().index_select(dim, kept.to(tensor.device))
        setattr(layer, name, nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part)
    for attribute, width in list(smaller_widths(layer, dim, len(kept), len(keep))):
        setattr(layer, attribute, width)


def tensors_along(layer: nn.Module, dim: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the layer's own parameters and buffers that have `width` positions along `dim`, with their names."""
    for name, tensor in chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)):
        if dim < tensor.dim() and tensor.shape[dim] == width:
            yield name, tensor


def smaller_widths(layer: nn.Module, dim: int, kept: int, width: int) -> Iterator[tuple[str, int]]:
    """Yield the attributes in which a layer keeps its widths, with their values once `kept` of `width` positions along `dim` are left."""
    by_blocks = getattr(layer, "groups", 1) > 1  # then the inputs go with the outputs
    for attribute in (*_WIDTHS[0], *_WIDTHS[1], "groups") if by_blocks else _WIDTHS[dim]:
        if hasattr(layer, attribute):
            yield attribute, getattr(layer, attribute) * kept // width


def main(folder: Path = FOLDER) -> None:
    """Load the network of a run folder, run it on a random image, and print its size."""
    description = _read(folder / "load_pruned.json")
    if description["network"]["origin"] == "factory":
        sys.path.insert(0, str(Path.cwd()))  # where your code is looked for
    network, image = load_pruned(folder), [1, *description["image"]]
    with torch.no_grad():
        found = network(torch.randn(image))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    shape = f"logits {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    print(f"{parameters} parameters; {shape} of a random image {image}")


if __name__ == "__main__":
    main()
