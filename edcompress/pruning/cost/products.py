"""Multiplications that no counted layer makes, and how they follow the widths of a space's groups.

They are matrix products, recurrent layers, bilinear forms, and convolutions whose weights the network's code computes. torch's
operations are counted as they run, each as a product of sizes. What follows a group shows on a copy without one of its channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from edcompress.networks.load_pruned import PaddedShortcut
from edcompress.networks.modes import evaluating, frozen
from edcompress.pruning.space.layers import is_attention
from edcompress.pruning.space.plan import plan_of
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.remove import remove

_ATEN = torch.ops.aten


class Product(NamedTuple):
    """Multiply-accumulates of a batch as a product of `sizes`; `owner` is the module whose code makes them ("" for the network's own)."""

    owner: str
    sizes: tuple[int, ...]


Measured = Callable[[nn.Module], list[Product]]
Stack = tuple[nn.Module, ...]
Shape = tuple[int, ...]


def find_products(network: nn.Module, example: Tensor, layers: Mapping[nn.Module, int]) -> list[Product]:
    """What a run on `example` [N, ...] multiplies beyond the counted `layers`, whose multiply-accumulates for one image are given.

    An attention whose heads can be removed owns all that runs in it. A PaddedShortcut only copies.
    """
    names = {module: name for name, module in network.named_modules()}
    found, left = [], {layer: len(example) * macs for layer, macs in layers.items()}
    for stack, sizes in _operations(network, example):
        layer = next((module for module in reversed(stack) if module in left), None)
        if any(isinstance(module, PaddedShortcut) for module in stack):
            continue
        if layer is None:
            owner = next((module for module in stack if is_attention(module)), stack[-1])
            found.append(Product(names[owner], sizes))
        else:
            left[layer] -= math.prod(sizes)
    return found + [Product(names[layer], (-rest,)) for layer, rest in left.items() if rest < 0]


def uncounted_warnings(network: nn.Module, example: Tensor) -> list[str]:
    """One warning that names what a run multiplies without a formula (transforms, solvers, other libraries' operations), or none."""
    with _ready(network), _Names() as seen:
        network(example)
    if not seen.names:
        return []
    return [
        f"the network runs {', '.join(sorted(seen.names))}, whose multiply-accumulates are not counted: its share of them is a share "
        "of the rest, so set a target of latency or params where these take long"
    ]


class Products:
    """Multiply-accumulates of one image that no counted layer makes, for each of `owners`, by the widths n [G] of the free groups.

    What goes with an attention's heads, or with nothing, is `_affine` float64[owners, G + 1], with its fixed part at the end. Each row of
    `_sizes` float64[rows, factors, G + 1] is a product of sizes that follow groups, and `_counts` float64[rows, owners] says how many of
    it an image has. `measured` gives the products of a network for a batch of `images`.
    """

    def __init__(self, space: PruningSpace, network: nn.Module, images: int, measured: Measured) -> None:
        found, heads = measured(network), {name for name, module in network.named_modules() if is_attention(module)}
        self.owners = list(dict.fromkeys(product.owner for product in found))
        loose = [product for product in found if product.owner not in heads]
        sizes = _by_width(space, network, loose, lambda other: [p for p in measured(other) if p.owner not in heads])
        follows = (sizes[..., :-1] != 0).flatten(1).any(1)
        owner = torch.tensor([[self.owners.index(product.owner)] for product in loose], dtype=torch.float64)
        rows, counts = _once(torch.cat([sizes.flatten(1), owner.view(-1, 1)], 1)[follows])
        self._sizes = rows[:, :-1].reshape(len(rows), *sizes.shape[1:])
        self._counts = torch.zeros(len(rows), len(self.owners), dtype=torch.float64)
        self._counts[torch.arange(len(rows)), rows[:, -1].long()] = counts.double() / images
        still = [product for product, moves in zip(loose, follows.tolist(), strict=True) if not moves]
        whole = [*still, *(product for product in found if product.owner in heads)]
        self._affine = _affine_parts(space, self.owners, whole, heads) / images

    def macs(self, widths: Tensor) -> Tensor:
        """float64[..., owners] at widths [..., G]."""
        sizes = affine(self._sizes.flatten(0, 1), widths)
        products = sizes.reshape(*widths.shape[:-1], *self._sizes.shape[:2]).prod(-1)
        return affine(self._affine, widths) + products @ self._counts


def affine(coefficients: Tensor, widths: Tensor) -> Tensor:
    """b + A n, [..., rows], for widths n [..., G] and coefficients [rows, G + 1] whose last column is b."""
    return widths @ coefficients[:, :-1].mT + coefficients[:, -1]


def _once(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Equal rows of [rows, n] once, and how often each was there."""
    once, counts = torch.unique(rows, dim=0, return_counts=True)
    return once, counts


def _affine_parts(space: PruningSpace, owners: Sequence[str], found: Sequence[Product], heads: set[str]) -> Tensor:
    """float64[owners, G + 1]: what an attention of `heads` makes goes with its heads where they are free; all else is fixed."""
    parts = torch.zeros(len(owners), len(space.free) + 1, dtype=torch.float64)
    places = {group.name: (place, group.channels) for place, group in enumerate(space.free) if group.name in heads}
    for owner, sizes in found:
        place, channels = places.get(owner, (-1, 1))
        parts[owners.index(owner), place] += math.prod(sizes) / channels
    return parts


def _by_width(space: PruningSpace, network: nn.Module, found: Sequence[Product], measured: Measured) -> Tensor:
    """float64[products, factors, G + 1]: how the sizes of the dense network's products depend on the widths."""
    factors = max((len(product.sizes) for product in found), default=1)
    dense = _filled(found, factors)
    slopes = torch.zeros(len(found), factors, len(space.free), dtype=torch.float64)
    for place, cut in _changed(space, network, found, measured).items():
        if [len(product.sizes) for product in cut] == [len(product.sizes) for product in found]:
            slopes[..., place] = dense - _filled(cut, factors)
    fixed = dense - slopes @ torch.tensor(space.widths, dtype=torch.float64)
    return torch.cat([slopes, fixed.unsqueeze(-1)], -1)


def _filled(found: Sequence[Product], factors: int) -> Tensor:
    """float64[products, factors]: the sizes, and ones."""
    return torch.tensor(
        [[*product.sizes, *(factors - len(product.sizes)) * [1]] for product in found], dtype=torch.float64
    ).view(-1, factors)


def _changed(
    space: PruningSpace, network: nn.Module, found: Sequence[Product], measured: Measured
) -> dict[int, list[Product]]:
    """The products without the last channel of a free group, by the group's place, for groups that make a difference.

    All groups are tried at once, which is all there is to do for most networks, and then half by half.
    """
    ends = list(accumulate(space.widths))
    changed: dict[int, list[Product]] = {}

    def search(places: Sequence[int]) -> None:
        state = space.full_state()
        state[[ends[place] - 1 for place in places]] = False
        without = measured(remove(network, plan_of(state, space), space))
        if without != found and len(places) == 1:
            changed[places[0]] = without
        elif without != found:
            search(places[: len(places) // 2])
            search(places[len(places) // 2 :])

    places = [place for place, width in enumerate(space.widths) if width > 1]
    if found and places:
        search(places)
    return changed


def _operations(network: nn.Module, example: Tensor) -> list[tuple[Stack, tuple[int, ...]]]:
    """The operations of a run that multiply, each with the modules it ran in, outermost first, and sizes whose product is its count."""
    found: list[tuple[Stack, tuple[int, ...]]] = []
    with _ready(network), _running(network) as stack:

        def noted(operation: Any, formula: Callable[..., int] | None) -> Callable[..., int]:
            def note(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
                sizes = _sizes(operation, args, out_val)
                flops = formula(*args, out_val=out_val, **kwargs) if formula else 2 * math.prod(sizes)
                found.append((tuple(stack), sizes if 2 * math.prod(sizes) == flops else (flops // 2,)))
                return flops

            note._get_raw = True  # type: ignore[attr-defined]
            return note

        formulas = {
            operation: noted(operation, flop_registry.get(operation)) for operation in {*flop_registry, *_SIZES}
        }
        with FlopCounterMode(display=False, custom_mapping=formulas):
            network(example)
    return found


def _sizes(operation: Any, args: Sequence[Any], out: object) -> Shape:
    """The sizes that an operation multiplies, by the shapes of what it gives and takes; none where they are not known."""
    tensors = [tuple(tensor.shape) for tensor in args if isinstance(tensor, Tensor)]
    given = tuple(out.shape) if isinstance(out, Tensor) else ()
    return _SIZES[operation](given, *tensors) if operation in _SIZES else ()


def _matrices(_: Shape, a: Shape, b: Shape) -> Shape:
    """[..., m, k] x [..., k, n]."""
    return (*a, b[-1])


def _added(_: Shape, __: Shape, a: Shape, b: Shape) -> Shape:
    return (*a, b[-1])


def _vectors(_: Shape, a: Shape, __: Shape) -> Shape:
    return a


def _convolution(out: Shape, _: Shape, weight: Shape, *__: Shape) -> Shape:
    return (out[0], *out[2:], *weight)


_SIZES: dict[Any, Callable[..., Shape]] = {
    _ATEN.mm: _matrices,
    _ATEN.bmm: _matrices,
    _ATEN.addmm: _added,
    _ATEN.baddbmm: _added,
    _ATEN.addbmm: _added,
    _ATEN.mv: _vectors,
    _ATEN.dot: _vectors,
    _ATEN.vdot: _vectors,
    _ATEN.addmv: lambda _, __, a, ___: a,
    _ATEN.convolution: _convolution,
    torch.ops.torchvision.deform_conv2d: _convolution,
    _ATEN._trilinear: lambda _, a, weight, __: (*a[:-1], *weight),
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda _, q, k, v, *__: (*q[:-1], k[-2], q[-1] + v[-1]),
    # tokens x gates x (inputs and hidden values): one layer and direction of an LSTM
    _ATEN.mkldnn_rnn_layer: lambda _, x, inputs, hidden, *__: (*x[:-1], inputs[0], inputs[1] + hidden[1]),
}
"""The sizes that operations multiply, by the shapes of the result and of the tensors they take."""


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of operations that multiply and have no formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = getattr(func, "_overloadpacket", func)
        if operation not in flop_registry and operation not in _SIZES and _multiplies(str(operation)):
            self.names.add(str(operation))
        return func(*args, **(kwargs or {}))


def _multiplies(operation: str) -> bool:
    library, _, name = operation.partition(".")
    if library == "aten":
        return name.startswith(("_fft_", "_cdist_", "linalg_", "_linalg_")) and not name.endswith(("norm", "errors"))
    return library not in ("prim", "prims", "torchvision")


@contextmanager
def _ready(network: nn.Module) -> Iterator[None]:
    """In eval mode, without torch's fused attention, which hides its products.

    The counter asks module inputs for their gradient function, and a class token that is a parameter has none under no_grad.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    with evaluating(network), frozen(network):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _running(network: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules of the network that are running, outermost first."""
    stack: list[nn.Module] = []
    known = set(network.modules())

    def enter(module: nn.Module, _: object) -> None:
        if module in known:
            stack.append(module)

    def leave(module: nn.Module, *_: object) -> None:
        if module in known:
            stack.pop()

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()
