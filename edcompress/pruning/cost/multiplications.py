"""The operations of a run that multiply, counted as torch runs them, each as a product of sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision  # noqa: F401  # registers its operations with torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from edcompress.networks.modes import evaluating, frozen
from edcompress.pruning.torch_private import CPU_ATTENTION, TRILINEAR, DispatchMode, packet_of, takes_tensors

Multiplication = tuple[tuple[nn.Module, ...], tuple[int, ...]]
"""The modules that an operation runs in, outermost first, and sizes whose product is its multiply-accumulates."""

Shape = tuple[int, ...]

_ATEN = torch.ops.aten


def count_multiplications(network: nn.Module, example: Tensor) -> list[Multiplication]:
    """Return the operations of a run on `example` [N, ...] that multiply."""
    found: list[Multiplication] = []
    with _ready(network), _running(network) as stack:

        def noted(operation: Any, formula: Callable[..., int] | None) -> Callable[..., int]:
            def note(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
                sizes = _sizes(operation, args, out_val)
                flops = formula(*args, out_val=out_val, **kwargs) if formula else 2 * math.prod(sizes)
                found.append((tuple(stack), sizes if 2 * math.prod(sizes) == flops else (flops // 2,)))
                return flops

            return takes_tensors(note)

        formulas = {
            operation: noted(operation, flop_registry.get(operation)) for operation in {*flop_registry, *_SIZES}
        }
        with FlopCounterMode(display=False, custom_mapping=formulas):
            network(example)
    return found


def uncounted_warnings(network: nn.Module, example: Tensor) -> list[str]:
    """Return one warning that names what a run multiplies without a formula (transforms, solvers, other libraries), or none."""
    with _ready(network), _UncountedNames() as seen:
        network(example)
    if not seen.names:
        return []
    return [
        f"the network runs {', '.join(sorted(seen.names))}, whose multiply-accumulates are not counted: its share of them is a share "
        "of the rest, so set a target of latency or params where these take long"
    ]


def _sizes(operation: Any, args: Sequence[Any], out: object) -> Shape:
    """Return the sizes that an operation multiplies, by the shapes of what it gives and takes; () where they are not known."""
    tensors = [tuple(tensor.shape) for tensor in args if isinstance(tensor, Tensor)]
    given = tuple(out.shape) if isinstance(out, Tensor) else ()
    return _SIZES[operation](given, *tensors) if operation in _SIZES else ()


def _matrices(_: Shape, a: Shape, b: Shape) -> Shape:
    """Return the sizes of [..., m, k] x [..., k, n]."""
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
    TRILINEAR: lambda _, a, weight, __: (*a[:-1], *weight),
    CPU_ATTENTION: lambda _, q, k, v, *__: (*q[:-1], k[-2], q[-1] + v[-1]),
    # tokens x gates x (inputs and hidden values): one layer and direction of an LSTM
    _ATEN.mkldnn_rnn_layer: lambda _, x, inputs, hidden, *__: (*x[:-1], inputs[0], inputs[1] + hidden[1]),
}
"""The sizes that operations multiply, by the shapes of the result and of the tensors they take."""


class _UncountedNames(DispatchMode):  # type: ignore[no-untyped-call]
    """A context that notes the names of operations that multiply and have no formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = packet_of(func)
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
    """Put the network in eval mode, and switch off torch's fused attention, which hides its products.

    Gradients stay on: the counter asks module inputs for their gradient function, and a class token that is a parameter has none without.
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
    """Yield the modules of the network that are running, outermost first; the list changes as the network runs."""
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
