"""What a network costs: measured by running it once, and predicted for any group widths.

Convolutions, linear layers and matrix products are counted: macs = out positions x kernel size x in channels x out channels / groups.
Norms, activations and pooling cost no multiply-accumulates here, as is the field's habit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from edcompress.measures import Size
from edcompress.networks.cifar_resnet import PaddedShortcut
from edcompress.networks.modes import evaluating, frozen, run_once
from edcompress.surgery.latency import LatencyModel, LatencyTable
from edcompress.surgery.layers import is_attention
from edcompress.surgery.space import Space

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Kind = Literal["macs", "params", "channels", "latency"]


def measure_size(network: nn.Module, example: Tensor) -> Size:
    """Parameters, and multiply-accumulates for one image of `example` [N, C, H, W]."""
    positions = _output_positions(network, example)
    macs = sum(_layer_macs(layer, calls) for layer, calls in positions.items())
    params = sum(parameter.numel() for parameter in network.parameters())
    return Size(params=params, macs=macs + sum(_products(network, example, positions).values()))


def _layer_macs(layer: nn.Module, positions: int) -> int:
    return positions * _weight(layer).numel()


def _weight(layer: nn.Module) -> Tensor:
    """The weight [out, in, ...] of a counted layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _output_positions(network: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """For each convolution and linear layer how often its weight is applied to one image (output pixels, tokens, calls)."""
    positions: Counter[nn.Module] = Counter()

    def count(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):  # a layer of the user's own may give more
            positions[layer] += output.numel() // _weight(layer).shape[0] // len(example)

    counted = (layer for layer in network.modules() if isinstance(layer, _COUNTED))
    run_once(network, example, [layer.register_forward_hook(count) for layer in counted])
    return dict(positions)


def layer_sizes(network: nn.Module, example: Tensor) -> dict[str, Size]:
    """What each layer with parameters of its own costs, by name."""
    positions = _output_positions(network, example)
    return {
        name: Size(
            params=sum(parameter.numel() for parameter in layer.parameters(recurse=False)),
            macs=_layer_macs(layer, positions[layer]) if layer in positions else 0,
        )
        for name, layer in network.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
    }


def outputs_per_image(network: nn.Module, example: Tensor) -> int:
    """Values that convolutions and linear layers write for one image: what must go through memory, whatever it takes to compute."""
    return sum(calls * _weight(layer).shape[0] for layer, calls in _output_positions(network, example).items())


def _products(network: nn.Module, example: Tensor, positions: Mapping[nn.Module, int]) -> dict[str, int]:
    """Multiply-accumulates for one image of what no counted layer computes: matrix products, by the attention they are in, and under ""
    others and convolutions (transposed ones, and those with weights of the user's own); but not of a PaddedShortcut, which only copies."""
    # The counter asks module inputs for their gradient function, and a class token that is a parameter has none under no_grad.
    with evaluating(network), frozen(network), _without_fast_attention(), _counter() as counter:
        network(example)
    counts = counter.get_flop_counts()

    def counted(key: str, *, convolutions: bool) -> int:
        found = counts.get(key, {}).items()
        flops: int = sum(count for operation, count in found if ("convolution" in str(operation)) == convolutions)
        return flops // 2 // len(example)

    def outside(module: nn.Module, key: str, *, convolutions: bool = False) -> int:
        layers = (layer for layer in module.modules() if layer in positions)
        inside = (layer for layer in layers if isinstance(layer, nn.Linear) != convolutions)
        macs = sum(_layer_macs(layer, positions[layer]) for layer in inside)
        return max(0, counted(key, convolutions=convolutions) - macs)

    root, layers = type(network).__name__, dict(network.named_modules())
    found = {name: outside(layer, f"{root}.{name}") for name, layer in layers.items() if is_attention(layer)}
    copies = [f"{root}.{name}" for name, layer in layers.items() if isinstance(layer, PaddedShortcut)]
    convolved = outside(network, "Global", convolutions=True) - sum(counted(key, convolutions=True) for key in copies)
    return {**found, "": max(0, outside(network, "Global") - sum(found.values())) + max(0, convolved)}


def _counter() -> FlopCounterMode:
    """Torch's counter, which in torch 2.11 does not know the attention of CPUs."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)  # type: ignore[no-any-return,no-untyped-call]

    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    )


@contextmanager
def _without_fast_attention() -> Iterator[None]:
    """torch's fused attention in eval mode hides its products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class CostModel:
    """Cost of every state of a space from its group widths alone, as a share of the dense network.

    A layer with weight [out, in, k...] costs a x out x in. Both sides are linear in the widths n [G] of the free groups:
    out = b_out + A_out n. Vectors such as biases and norms cost c + w n parameters. An attention's products go with its heads; other
    products that no layer computes cost the same for all. Latency is told from a `table` of measured times, where one is given.
    """

    def __init__(self, space: Space, network: nn.Module, example: Tensor, table: LatencyTable | None = None) -> None:
        self._widths = torch.tensor(space.widths, dtype=torch.float64)
        positions = _output_positions(network, example)
        names = {module: name for name, module in network.named_modules()}
        layers = [layer for layer in positions if layer in names]
        self._names = [names[layer] for layer in layers]
        counts = _position_counts(space)
        self._out = torch.stack([_side(layer, names[layer], "out", counts, space) for layer in layers])
        self._in = torch.stack([_side(layer, names[layer], "in", counts, space) for layer in layers])
        self._kernel = torch.tensor([_kernel(layer) for layer in layers], dtype=torch.float64)
        self._pixels = torch.tensor([positions[layer] for layer in layers], dtype=torch.float64)
        self._vectors = _vector_params(space, network, layers)
        self._products = _by_group(space, _products(network, example, positions))
        self._latency = LatencyModel(_in_order(table, self._names), self._pixels) if table else None
        self._dense: dict[Kind, Tensor] = {}

    def share(self, kind: Kind, widths: Tensor) -> Tensor:
        """Cost of widths [..., G] as a share of the dense network's, float64[...]."""
        costs = {"macs": self._macs, "params": self._params, "channels": self._channels, "latency": self._time}
        cost: Callable[[Tensor], Tensor] = costs[kind]
        if kind not in self._dense:
            self._dense[kind] = cost(self._widths)
        return cost(widths.to(torch.float64)) / self._dense[kind]

    def by_layer(self, kind: Kind, widths: Tensor) -> dict[str, float]:
        """What the weights of each layer cost at widths [G], as a share of the whole dense network's cost; nothing of channels."""
        each: dict[Kind, Callable[[Tensor], Tensor]] = {
            "macs": lambda n: self._weights(n) * self._pixels, "params": self._weights, "latency": self._times}  # fmt: skip
        if kind not in each:
            return {}
        self.share(kind, widths)
        shares = each[kind](widths.to(torch.float64)) / self._dense[kind]
        return dict(zip(self._names, shares.tolist(), strict=True))

    def _macs(self, widths: Tensor) -> Tensor:
        return self._weights(widths) @ self._pixels + _affine(self._products, widths).squeeze(-1)

    def _params(self, widths: Tensor) -> Tensor:
        return self._weights(widths).sum(-1) + _affine(self._vectors, widths).squeeze(-1)

    def _channels(self, widths: Tensor) -> Tensor:
        return widths.sum(-1)

    def _time(self, widths: Tensor) -> Tensor:
        assert self._latency, "latency is a cost only where times were measured"
        return self._latency.share(_affine(self._in, widths), _affine(self._out, widths))

    def _times(self, widths: Tensor) -> Tensor:
        """Each layer's share of the dense network's time, float64[..., L]."""
        assert self._latency
        return self._latency.by_layer(_affine(self._in, widths), _affine(self._out, widths))

    def _weights(self, widths: Tensor) -> Tensor:
        """Elements of each layer's weight, float64[..., L]."""
        return _affine(self._out, widths) * _affine(self._in, widths) * self._kernel


class RestCosts:
    """Costs of a network that an earlier plan has made smaller, by the widths n [G] of the groups that are still free.

    They are shares of the dense network, whose `costs` these are; `widths` [all groups] are those that the earlier plan left.
    """

    def __init__(self, costs: CostModel, widths: Tensor, free: Tensor) -> None:
        self._costs, self._widths, self._free = costs, widths, free

    def share(self, kind: Kind, widths: Tensor) -> Tensor:
        """Cost of widths [..., G] as a share of the dense network's, float64[...]."""
        return self._costs.share(kind, self._every(widths))

    def by_layer(self, kind: Kind, widths: Tensor) -> dict[str, float]:
        """What the weights of each layer cost at widths [G], as a share of the whole dense network's cost; nothing of channels."""
        return self._costs.by_layer(kind, self._every(widths))

    def _every(self, widths: Tensor) -> Tensor:
        every = self._widths.to(widths).expand(*widths.shape[:-1], -1).clone()
        every[..., self._free] = widths
        return every


def _in_order(table: LatencyTable, names: Sequence[str]) -> LatencyTable:
    layers = {layer.name: layer for layer in table.layers}
    return table.model_copy(update={"layers": tuple(layers[name] for name in names)})


def _affine(coefficients: Tensor, widths: Tensor) -> Tensor:
    """b + A n, [..., rows], for widths n [..., G] and coefficients [rows, G + 1] whose last column is b."""
    return widths @ coefficients[:, :-1].mT + coefficients[:, -1]


def _position_counts(space: Space) -> dict[tuple[str, str], dict[int, int]]:
    """For each side of each layer: positions per channel of every free group that touches it."""
    counts: dict[tuple[str, str], dict[int, int]] = {}
    for place, group in enumerate(space.free):
        for member in group.members:
            side = counts.setdefault((member.layer, member.side), {})
            side[place] = side.get(place, 0) + len(member.positions) // group.channels
    return counts


def _side(
    layer: nn.Module, name: str, side: str, counts: dict[tuple[str, str], dict[int, int]], space: Space
) -> Tensor:
    """float64[G + 1]: how the size of one side of a weight depends on the widths; the last element is its fixed part."""
    coefficients = torch.zeros(len(space.free) + 1, dtype=torch.float64)
    coefficients[-1] = _weight(layer).shape[0 if side == "out" else 1]
    for place, count in counts.get((name, side), {}).items():
        coefficients[place] += count
        coefficients[-1] -= count * space.free[place].channels
    return coefficients


def _by_group(space: Space, products: Mapping[str, int]) -> Tensor:
    """float64[1, G + 1]: products as they depend on the widths: an attention's go with its heads."""
    coefficients = torch.zeros(len(space.free) + 1, dtype=torch.float64)
    coefficients[-1] = sum(products.values())
    for place, group in enumerate(space.free):
        coefficients[place] = products.get(group.name, 0) / group.channels
        coefficients[-1] -= products.get(group.name, 0)
    return coefficients.unsqueeze(0)


def _kernel(layer: nn.Module) -> int:
    return math.prod(_weight(layer).shape[2:])


def _vector_params(space: Space, network: nn.Module, counted: list[nn.Module]) -> Tensor:
    """float64[1, G + 1]: parameters outside the counted weights, as they depend on the widths."""
    layers = dict(network.named_modules())
    weights = sum(_weight(layer).numel() for layer in counted)
    coefficients = torch.zeros(len(space.free) + 1, dtype=torch.float64)
    coefficients[-1] = sum(parameter.numel() for parameter in network.parameters()) - weights
    for place, group in enumerate(space.free):
        for member in group.members:
            layer = layers[member.layer]
            others = [
                p for p in layer.parameters(recurse=False) if p.numel() > 1 and (p.dim() == 1 or layer not in counted)
            ]
            if member.side == "out":
                per_channel = sum(p[0].numel() for p in others) * len(member.positions) // group.channels
                coefficients[place] += per_channel
                coefficients[-1] -= per_channel * group.channels
    return coefficients.unsqueeze(0)
