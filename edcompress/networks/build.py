"""Build or load the recipe's network, and check it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from edcompress.core.errors import EdcompressError, NetworkError, first_line
from edcompress.core.recipe.deployment import MOST_ONNX_BYTES
from edcompress.core.recipe.model import Model, NetworkSpec
from edcompress.core.system.devices import is_out_of_memory
from edcompress.core.user_code import NO_TRUST, Trust, users_code
from edcompress.networks.attention import free_heads
from edcompress.networks.independence import require_independent
from edcompress.networks.load_weights import load_into
from edcompress.networks.materialize_weights import with_plain_weights
from edcompress.networks.modes import evaluating
from edcompress.networks.outputs import outputs_of
from edcompress.networks.registry import build
from edcompress.networks.user_factory import require_repeatable, require_trainable
from edcompress.networks.weight_files import read_state_dict


def example_images(shape: tuple[int, int, int]) -> Tensor:
    """Return two random images [2, C, H, W] of a shape (C, H, W); always the same ones."""
    return torch.randn(2, *shape, generator=Generator().manual_seed(0))


def new_network(spec: NetworkSpec, *, trust: Trust = NO_TRUST) -> nn.Module:
    """Return the network with random weights, on the CPU.

    Raises NetworkError if it cannot take images of that shape, or cannot be trained or exported.
    """
    with _memory_as_error(spec), torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = build(spec.model, trust=trust)
        _check_tensors(network, spec.model)
        _check_size(network, spec.model)
        network.float()  # as it is trained, proved and exported
        _check_forward(network, spec)  # which makes the weights of lazy layers
    if called := spec.model.own:
        images = example_images(spec.image_shape).flip(0)  # not those that a hook may have kept
        require_repeatable(network, called, images)
        require_independent(network, called, images)
        require_trainable(network, called, example_images(spec.image_shape), in_part=spec.searched)
        free_heads(network, images)
    return network


def plain_network(spec: NetworkSpec, *, trust: Trust = NO_TRUST) -> nn.Module:
    """Return `new_network` in the form that is pruned and that run folders hold: each layer holds its weight as it uses it."""
    return with_plain_weights(new_network(spec, trust=trust))


def read_network(
    spec: NetworkSpec,
    weights: Path,
    *,
    trust: Trust = NO_TRUST,
    trust_pickle: bool = False,
    on_untrained: Callable[[list[str]], None] = lambda _: None,
) -> nn.Module:
    """Return the network with the weights of a file, on the CPU, in the form that is pruned.

    Where model.reset_head gives it a new classifier, `on_untrained` is called with the names of its tensors.
    """
    tensors = read_state_dict(weights, trust_pickle=trust_pickle, ema=spec.model.ema)
    network = new_network(spec, trust=trust)
    if untrained := load_into(network, tensors, source=str(weights), reset_head=spec.model.reset_head):
        on_untrained(sorted(untrained))
    return with_plain_weights(network)


@contextmanager
def _memory_as_error(spec: NetworkSpec) -> Iterator[None]:
    """Re-raise an out-of-memory error of a block that builds the network as a NetworkError that names its size."""
    try:
        yield
    except (EdcompressError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NetworkError(
            f"{spec.model.name} with model.num_classes {spec.model.num_classes} and data.image_size {spec.image_size} takes more "
            f"memory than there is: {first_line(error)}; take a smaller network, or fewer classes"
        ) from error


def _check_tensors(network: nn.Module, model: Model) -> None:
    others = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise NetworkError(
            f"{model.name}: its state holds more than tensors: {others[0]} (get_extra_state), which neither "
            "safetensors nor ONNX can hold; keep it out of the state"
        )


def _check_size(network: nn.Module, model: Model) -> None:
    weights = (weight for weight in network.state_dict().values() if not is_lazy(weight))
    size = 4 * sum(weight.numel() for weight in weights)  # exported in fp32
    if size > MOST_ONNX_BYTES:
        raise NetworkError(
            f"{model.name} has {size / (1 << 30):.2f} GiB of weights in fp32, and one ONNX file holds less "
            "than 2 GiB; take a smaller network"
        )


@torch.no_grad()
def _check_forward(network: nn.Module, spec: NetworkSpec) -> None:
    model, (C, H, W) = spec.model, spec.image_shape
    _require_one_input(network, model.name)
    fault = f"cannot take images of {C}x{H}x{W}; see data.image_size and model.stem"
    with (
        users_code(f"{model.name} {fault}", NetworkError) if model.own else _library_code(f"{model.arch} {fault}"),
        evaluating(network),
    ):
        outputs = outputs_of(network(example_images(spec.image_shape)), model.output)
    wanted, several = (2, model.num_classes), len(outputs) > 1
    for name, logits in outputs.items():
        shape, which = tuple(logits.shape), f" as {name!r}" if several else ""
        if shape[: 1 if several else 2] != wanted[: 1 if several else 2]:
            raise NetworkError(f"the network gives {shape}{which} for two images, not {wanted}; see model.num_classes")


def _require_one_input(network: nn.Module, called: str) -> None:
    """Raise NetworkError for a forward that needs more than a batch of images."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has none
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise NetworkError(
            f"{called} takes {len(needed)} inputs ({', '.join(needed)}), but it gets one, a batch of images; take a "
            "module whose forward takes the images alone"
        )


@contextmanager
def _library_code(fault: str) -> Iterator[None]:
    """Re-raise an error of a library's network as a NetworkError."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        raise NetworkError(f"{fault} ({first_line(error)})") from error
