"""The cost of a network at any group widths, predicted from one run of it.

Convolutions and linear layers are counted by macs = out positions x kernel size x in channels x out channels / groups, and all other
products of tensors (matrix products, recurrent layers) by what torch runs. Norms, activations and pooling count as no multiply-accumulates,
as is usual in the field.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edcompress.networks.load_pruned import tensors_along
from edcompress.pruning.cost.latency_model import LatencyModel, LatencyTable
from edcompress.pruning.cost.network_size import OWN_CODE, macs_by_layer, output_positions, weight_of
from edcompress.pruning.cost.products import Product, Products, affine, find_products
from edcompress.pruning.space.layers import layer_width
from edcompress.pruning.space.space import PruningSpace

Kind = Literal["macs", "params", "channels", "latency"]


class CostModel:
    """The cost of every state of a space, from its group widths alone, as a share of the dense network.

    A layer with weight [out, in, k...] costs a x out x in. Both sides are linear in the widths n [G] of the free groups:
    out = b_out + A_out n. Vectors such as biases and norms cost c + w n parameters. Products that no such layer computes are `Products`.
    """

    def __init__(
        self, space: PruningSpace, network: nn.Module, example: Tensor, table: LatencyTable | None = None
    ) -> None:
        """Run the network once to count.

        Args:
            space: the pruning space of the network.
            network: the dense network.
            example: images [N, C, H, W] to run it on.
            table: measured times; needed for costs in latency.
        """
        self._widths = torch.tensor(space.widths, dtype=torch.float64)
        positions = output_positions(network, example)
        names = {module: name for name, module in network.named_modules()}
        layers = [layer for layer in positions if layer in names]
        self._names = [names[layer] for layer in layers]
        counts = _position_counts(space)
        self._out = torch.stack([_side(layer, names[layer], "out", counts, space) for layer in layers])
        self._in = torch.stack([_side(layer, names[layer], "in", counts, space) for layer in layers])
        self._kernel = torch.tensor([_kernel(layer) for layer in layers], dtype=torch.float64)
        self._pixels = torch.tensor([positions[layer] for layer in layers], dtype=torch.float64)
        self._vectors = _vector_params(space, network, layers)
        self._products = Products(space, network, len(example), lambda other: _found(other, example))
        self._latency = LatencyModel(_in_order(table, self._names), self._pixels) if table else None
        self._dense: dict[Kind, Tensor] = {}

    def share(self, kind: Kind, widths: Tensor) -> Tensor:
        """Return the cost of widths [..., G] as a share of the dense network's, float64[...]."""
        costs = {"macs": self._macs, "params": self._params, "channels": self._channels, "latency": self._time}
        cost: Callable[[Tensor], Tensor] = costs[kind]
        if kind not in self._dense:
            self._dense[kind] = cost(self._widths)
        return cost(widths.to(torch.float64)) / self._dense[kind]

    def by_layer(self, kind: Kind, widths: Tensor) -> dict[str, float]:
        """Return the cost of each layer at widths [G] as a share of the whole dense network's, by name; empty for channels.

        Parameters and latency are of the layers with counted weights only. OWN_CODE names what is multiplied in no layer.
        """
        each: dict[Kind, Callable[[Tensor], Tensor]] = {
            "macs": self._macs_each, "params": self._weights, "latency": self._times}  # fmt: skip
        if kind not in each:
            return {}
        self.share(kind, widths)
        shares = each[kind](widths.to(torch.float64)) / self._dense[kind]
        names = [*self._names, *(name or OWN_CODE for name in self._products.owners)]
        found: Counter[str] = Counter()
        for name, share in zip(names, shares.tolist(), strict=False):
            found[name] += share
        return dict(found)

    def _macs(self, widths: Tensor) -> Tensor:
        return self._weights(widths) @ self._pixels + self._products.macs(widths).sum(-1)

    def _macs_each(self, widths: Tensor) -> Tensor:
        """Return float64[..., L + owners]: the multiply-accumulates of the layers' weights, then those of products."""
        return torch.cat([self._weights(widths) * self._pixels, self._products.macs(widths)], -1)

    def _params(self, widths: Tensor) -> Tensor:
        return self._weights(widths).sum(-1) + affine(self._vectors, widths).squeeze(-1)

    def _channels(self, widths: Tensor) -> Tensor:
        return widths.sum(-1)

    def _time(self, widths: Tensor) -> Tensor:
        assert self._latency  # a target in latency comes with a table
        return self._latency.share(affine(self._in, widths), affine(self._out, widths))

    def _times(self, widths: Tensor) -> Tensor:
        """Return each layer's share of the dense network's time, float64[..., L]."""
        assert self._latency
        return self._latency.by_layer(affine(self._in, widths), affine(self._out, widths))

    def _weights(self, widths: Tensor) -> Tensor:
        """Return the elements of each layer's weight, float64[..., L]."""
        return affine(self._out, widths) * affine(self._in, widths) * self._kernel


class RemainingCosts:
    """Costs of a network that an earlier plan has made smaller, by the widths n [G] of the groups that are still free."""

    def __init__(self, costs: CostModel, widths: Tensor, free: Tensor) -> None:
        """Wrap the costs of the dense network, of which all shares are.

        Args:
            costs: of the dense network.
            widths: what the earlier plan left of all groups, int[all groups].
            free: the indices of the groups that are still free, int64[G].
        """
        self._costs, self._widths, self._free = costs, widths, free

    def share(self, kind: Kind, widths: Tensor) -> Tensor:
        """Return the cost of widths [..., G] as a share of the dense network's, float64[...]."""
        return self._costs.share(kind, self._every(widths))

    def by_layer(self, kind: Kind, widths: Tensor) -> dict[str, float]:
        """Return what each layer costs (see `CostModel.by_layer`)."""
        return self._costs.by_layer(kind, self._every(widths))

    def _every(self, widths: Tensor) -> Tensor:
        every = self._widths.to(widths).expand(*widths.shape[:-1], -1).clone()
        every[..., self._free] = widths
        return every


def _found(network: nn.Module, example: Tensor) -> list[Product]:
    return find_products(network, example, macs_by_layer(network, example))


def _in_order(table: LatencyTable, names: Sequence[str]) -> LatencyTable:
    layers = {layer.name: layer for layer in table.layers}
    return table.model_copy(update={"layers": tuple(layers[name] for name in names)})


def _position_counts(space: PruningSpace) -> dict[tuple[str, str], dict[int, int]]:
    """Return for each side of each layer the positions per channel of every free group that touches it."""
    counts: dict[tuple[str, str], dict[int, int]] = {}
    for index, group in enumerate(space.free):
        for member in group.members:
            side = counts.setdefault((member.layer, member.side), {})
            side[index] = side.get(index, 0) + len(member.positions) // group.channels
    return counts


def _side(
    layer: nn.Module, name: str, side: str, counts: dict[tuple[str, str], dict[int, int]], space: PruningSpace
) -> Tensor:
    """Return float64[G + 1]: how the size of one side of a weight depends on the widths; the last element is its fixed part."""
    coefficients = torch.zeros(len(space.free) + 1, dtype=torch.float64)
    coefficients[-1] = weight_of(layer).shape[0 if side == "out" else 1]
    for index, count in counts.get((name, side), {}).items():
        coefficients[index] += count
        coefficients[-1] -= count * space.free[index].channels
    return coefficients


def _kernel(layer: nn.Module) -> int:
    return math.prod(weight_of(layer).shape[2:])


def _vector_params(space: PruningSpace, network: nn.Module, counted: list[nn.Module]) -> Tensor:
    """Return float64[1, G + 1]: how the parameters outside the counted weights depend on the widths."""
    layers = dict(network.named_modules())
    weights = sum(weight_of(layer).numel() for layer in counted)
    coefficients = torch.zeros(len(space.free) + 1, dtype=torch.float64)
    coefficients[-1] = sum(parameter.numel() for parameter in network.parameters()) - weights
    for index, group in enumerate(space.free):
        for member in group.members:
            layer, dim = layers[member.layer], 0 if member.side == "out" else 1
            width = layer_width(layer, member.side)
            along = (tensor for _, tensor in tensors_along(layer, dim, width) if isinstance(tensor, nn.Parameter))
            others = sum(p.numel() // width for p in along if p.dim() == 1 or layer not in counted)
            per_channel = others * len(member.positions) // group.channels
            coefficients[index] += per_channel
            coefficients[-1] -= per_channel * group.channels
    return coefficients.unsqueeze(0)
