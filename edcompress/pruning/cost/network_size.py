"""Parameters and multiply-accumulates of a network, measured by running it."""

from __future__ import annotations

import math
from collections import Counter

from torch import Tensor, nn

from edcompress.core.results.measures import Size
from edcompress.networks.modes import run_once
from edcompress.pruning.cost.products import find_products

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
OWN_CODE = "(the network's own code)"


def measure_size(network: nn.Module, example: Tensor) -> Size:
    """Return the parameters, and the multiply-accumulates for one image of `example` [N, C, H, W]."""
    layers = macs_by_layer(network, example)
    batch = sum(math.prod(product.sizes) for product in find_products(network, example, layers))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Size(params=params, macs=sum(layers.values()) + batch // len(example))


def macs_by_layer(network: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Return the multiply-accumulates of each convolution and linear layer for one image."""
    return {layer: calls * weight_of(layer).numel() for layer, calls in output_positions(network, example).items()}


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight [out, in, ...] of a counted layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def output_positions(network: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Return how often the weight of each convolution and linear layer is applied to one image (output pixels, tokens, calls)."""
    positions: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):  # a layer of the user's own may give something else
            positions[layer] += output.numel() // weight_of(layer).shape[0] // len(example)

    counted = (layer for layer in network.modules() if isinstance(layer, _COUNTED))
    run_once(network, example, [layer.register_forward_hook(count) for layer in counted])
    return dict(positions)


def layer_sizes(network: nn.Module, example: Tensor) -> dict[str, Size]:
    """Return what each layer costs that has parameters of its own or multiplies, by name."""
    layers, macs = dict(network.named_modules()), macs_by_layer(network, example)
    batch = Counter({layer: len(example) * count for layer, count in macs.items()})
    for owner, sizes in find_products(network, example, macs):
        batch[layers[owner]] += math.prod(sizes)
    params = {layer: sum(p.numel() for p in layer.parameters(recurse=False)) for layer in layers.values()}
    return {
        name: Size(params=params[layer], macs=batch[layer] // len(example))
        for name, layer in layers.items()
        if params[layer] or batch[layer]
    }


def outputs_per_image(network: nn.Module, example: Tensor) -> int:
    """Return how many values convolutions and linear layers write for one image: the traffic through memory, however it is computed."""
    return sum(calls * weight_of(layer).shape[0] for layer, calls in output_positions(network, example).items())
