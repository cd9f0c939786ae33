"""What a network says of an image must not depend on the other images of the batch: its accuracy would go with the size of batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.networks.modes import evaluating, run_once
from edcompress.networks.random_weights import in_doubles, with_random_weights

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Relative to the scale: kernels for one image and for two round otherwise."""

Call = tuple[str, Tensor, Tensor]
"""The name of a module, and what it took and gave of the first image."""


def require_independent(network: nn.Module, spec: str, images: Tensor) -> None:
    """NetworkError where, in eval mode, the logits for the first of the images [N, C, H, W] depend on the others.

    That is tried with random weights, for a scale of zero would hide it; the layer is named where it is one.
    """
    tried = with_random_weights(network, images)
    tried = in_doubles(tried, images) or tried
    images = images.to(next(tried.parameters()).dtype)
    with evaluating(tried), torch.no_grad():
        together = tried(images)[:1]
        try:
            alone = tried(images[:1])
        except Exception:  # a network for a fixed number of images says so elsewhere
            return
    if _same(together, alone):
        return
    name = _mixing(tried, images)
    layer = f" through {name}, a {type(tried.get_submodule(name)).__name__}," if name else ""
    raise NetworkError(
        f"model.factory: {spec}: in eval mode the logits of an image depend{layer} on the other images of its batch, so that accuracies "
        "would change with data.eval_batch_size; let batch norms keep statistics of their training (track_running_stats=True), and compute "
        "nothing else across images in eval mode"
    )


def _mixing(network: nn.Module, images: Tensor) -> str:
    """The first module that gives something else of the first image though it takes the same; "" for the network itself."""
    pairs = zip(_calls(network, images), _calls(network, images[:1]), strict=False)
    found = (
        name
        for (name, taken, given), (other, taken_alone, given_alone) in pairs
        if name == other and _same(taken, taken_alone) and not _same(given, given_alone)
    )
    return next(found, "")


def _calls(network: nn.Module, images: Tensor) -> list[Call]:
    """All calls of modules that take a tensor and give one, in the order in which they end."""
    names = {module: name for name, module in network.named_modules()}
    calls: list[Call] = []

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        pair = [value for value in (*args[:1], output) if isinstance(value, Tensor) and value.is_floating_point()]
        if len(pair) == 2 and all(value.dim() and value.numel() for value in pair):
            taken, given = (value[:1].clone() for value in pair)
            calls.append((names[module], taken, given))

    run_once(network, images, [module.register_forward_hook(note) for module in names])
    return calls


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCES[one.dtype] * one.abs().max())
