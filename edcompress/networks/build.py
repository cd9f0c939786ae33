"""The recipe's network: built or loaded, and checked."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from edcompress.core.errors import EdcompressError, InputError, NetworkError, first_line
from edcompress.core.recipe.deployment import MOST_ONNX_BYTES
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.devices import is_out_of_memory
from edcompress.core.system.monitor import Monitor
from edcompress.networks.attention import free_heads
from edcompress.networks.independence import require_independent
from edcompress.networks.load_weights import load_into
from edcompress.networks.materialize_weights import with_plain_weights
from edcompress.networks.modes import evaluating
from edcompress.networks.registry import build
from edcompress.networks.user_factory import require_repeatable, require_trainable, users_code
from edcompress.networks.weight_files import read_state_dict


@contextmanager
def _fitting(recipe: Recipe) -> Iterator[None]:
    """A block that builds the recipe's network; NetworkError where that takes more memory than there is."""
    try:
        yield
    except (EdcompressError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        model = recipe.model
        raise NetworkError(
            f"{model.name} with model.num_classes {model.num_classes} and data.image_size {recipe.data.image_size} takes more memory "
            f"than there is: {first_line(error)}; take a smaller network, or fewer classes"
        ) from error


def example_images(recipe: Recipe) -> Tensor:
    """Two random images [2, C, H, W] of the recipe's input shape; always the same ones."""
    size = recipe.data.image_size
    return torch.randn(2, recipe.model.in_channels, size, size, generator=Generator().manual_seed(0))


def new_network(recipe: Recipe, options: RunOptions = DEFAULT) -> nn.Module:
    """The recipe's network with random weights, on the CPU; NetworkError where it cannot take the recipe's images or be exported."""
    with _fitting(recipe), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(recipe.model, trust_code=options.trust_code)
        _check_tensors(network, recipe)
        _check_size(network, recipe)
        network.float()  # as it is trained, proved and exported
        _check_forward(network, recipe)  # which makes the weights of lazy layers
    if spec := recipe.model.factory:
        images = example_images(recipe).flip(0)  # others than those that a hook may have kept
        require_repeatable(network, spec, images)
        require_independent(network, spec, images)
        require_trainable(network, spec, example_images(recipe), in_part=recipe.search.trains)
        free_heads(network, images)
    return network


def plain_network(recipe: Recipe, options: RunOptions = DEFAULT) -> nn.Module:
    """`new_network` in the form that is pruned, and that run folders hold: every layer holds its weight as it uses it."""
    return with_plain_weights(new_network(recipe, options))


def read_network(recipe: Recipe, checkpoint: Path, options: RunOptions = DEFAULT) -> nn.Module:
    """The recipe's network with the checkpoint's weights, on the CPU, in the form that is pruned."""
    tensors = read_state_dict(checkpoint, trust_pickle=options.trust_pickle, ema=recipe.model.ema)
    network = new_network(recipe, options)
    if begun := load_into(network, tensors, source=str(checkpoint), reset_head=recipe.model.reset_head):
        _warn_untrained(recipe, " and ".join(sorted(begun)), options.monitor)
    return with_plain_weights(network)


def _warn_untrained(recipe: Recipe, begun: str, monitor: Monitor) -> None:
    """Warn that the dense network's classifier, the tensors `begun`, knows nothing; InputError where the recipe goes by what it answers."""
    untrained = f"{begun} begin untrained (model.reset_head), and"
    if recipe.finetune.distill:
        raise InputError(
            f"{untrained} a dense network that knows nothing has nothing to teach; set finetune.distill to 0"
        )
    if recipe.target and recipe.target.max_top1_drop is not None:
        raise InputError(
            f"{untrained} there is no accuracy from which to drop; set another target than target.max_top1_drop"
        )
    monitor.warning(
        f"model.reset_head: {begun} begin untrained, so that the dense network's accuracy, and drops from it, say nothing; "
        "where they count, start from a checkpoint that was trained on these classes"
    )


def _check_tensors(network: nn.Module, recipe: Recipe) -> None:
    others = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise NetworkError(
            f"{recipe.model.name}: its state holds more than tensors: {others[0]} (get_extra_state), which neither "
            "safetensors nor ONNX can hold; keep it out of the state"
        )


def _check_size(network: nn.Module, recipe: Recipe) -> None:
    weights = (weight for weight in network.state_dict().values() if not is_lazy(weight))
    size = 4 * sum(weight.numel() for weight in weights)  # exported in fp32
    if size > MOST_ONNX_BYTES:
        raise NetworkError(
            f"{recipe.model.name} has {size / (1 << 30):.2f} GiB of weights in fp32, and one ONNX file holds less "
            "than 2 GiB; take a smaller network"
        )


@torch.no_grad()
def _check_forward(network: nn.Module, recipe: Recipe) -> None:
    example, model = example_images(recipe), recipe.model
    size, classes = recipe.data.image_size, model.num_classes
    _require_one_input(network, model.name)
    taken = f"cannot take images of {model.in_channels}x{size}x{size}; see data.image_size and model.stem"
    with (
        users_code(f"{model.factory} {taken}") if model.factory else _library_code(f"{model.arch} {taken}"),
        evaluating(network),
    ):
        logits = network(example)
    if not isinstance(logits, Tensor):
        raise NetworkError(
            f"the network gives a {type(logits).__name__}, not one tensor of logits (2, {classes}) for two images"
        )
    if (shape := tuple(logits.shape)) != (2, classes):
        raise NetworkError(f"the network gives {shape} for two images, not (2, {classes}); see model.num_classes")


def _require_one_input(network: nn.Module, called: str) -> None:
    """Raise NetworkError for a forward that needs more than a batch of images."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has none
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        raise NetworkError(
            f"{called} takes {len(needed)} inputs ({', '.join(needed)}), and it is given one, a batch of images; have the factory return a "
            "module whose forward takes the images alone"
        )


@contextmanager
def _library_code(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        raise NetworkError(f"{what} ({first_line(error)})") from error
