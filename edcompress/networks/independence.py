"""A check that the logits of an image do not depend on the other images of its batch, or accuracy would depend on the batch size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.networks.modes import evaluating, run_once
from edcompress.networks.outputs import joined
from edcompress.networks.random_weights import in_doubles, with_random_weights

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Largest differences relative to the scale: kernels for one image and for two round differently."""

Call = tuple[str, Tensor, Tensor]
"""The name of a module, and its input and output for the first image."""


def require_independent(network: nn.Module, spec: str, images: Tensor) -> None:
    """Check that in eval mode the logits of the first of the images [N, C, H, W] do not depend on the others.

    The check uses random weights, since a scale of zero would hide a dependence.

    Raises:
        NetworkError: They do; the message names the layer, where it is a single one.
    """
    tried = with_random_weights(network, images)
    tried = in_doubles(tried, images) or tried
    images = images.to(next(tried.parameters()).dtype)
    with evaluating(tried), torch.no_grad():
        together = joined(tried(images))[:1]
        try:
            alone = joined(tried(images[:1]))
        except Exception:  # a network for a fixed number of images is reported elsewhere
            return
    if _same(together, alone):
        return
    name = _mixing(tried, images)
    layer = f" through {name}, a {type(tried.get_submodule(name)).__name__}," if name else ""
    raise NetworkError(
        f"{spec}: in eval mode the logits of an image depend{layer} on the other images of its batch, so that accuracies "
        "would change with data.eval_batch_size; let batch norms use their running statistics (track_running_stats=True), and compute "
        "nothing else across images in eval mode"
    )


def _mixing(network: nn.Module, images: Tensor) -> str:
    """Return the first module whose output for the first image differs although its input does not; "" for the network itself."""
    pairs = zip(_calls(network, images), _calls(network, images[:1]), strict=False)
    found = (
        name
        for (name, inputs, outputs), (other, inputs_alone, outputs_alone) in pairs
        if name == other and _same(inputs, inputs_alone) and not _same(outputs, outputs_alone)
    )
    return next(found, "")


def _calls(network: nn.Module, images: Tensor) -> list[Call]:
    """Record all calls of modules from a tensor to a tensor, in the order in which they end."""
    names = {module: name for name, module in network.named_modules()}
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        pair = [value for value in (*args[:1], output) if isinstance(value, Tensor) and value.is_floating_point()]
        if len(pair) == 2 and all(value.dim() and value.numel() for value in pair):
            inputs, outputs = (value[:1].clone() for value in pair)
            calls.append((names[module], inputs, outputs))

    run_once(network, images, [module.register_forward_hook(note) for module in names])
    return calls


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCES[one.dtype] * one.abs().max())
