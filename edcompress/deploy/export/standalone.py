"""load_pruned.py and load_pruned.json: the pruned network of a run for whoever has the run folder and no edcompress."""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from torch import nn

from edcompress.core.recipe.model import Model
from edcompress.networks import load_pruned
from edcompress.networks.registry import CIFAR_RESNETS, EXTRA_ARGUMENTS, TIMM
from edcompress.networks.replacements import replacements

_NEEDS = {"torchvision": ("torchvision",), "timm": ("timm",)}
"""What a network needs besides torch and safetensors, by its origin."""

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


def standalone_files(model: Model, dense: nn.Module, image: Sequence[int]) -> dict[str, str]:
    """Return the texts of load_pruned.py and load_pruned.json by name.

    Args:
        model: The recipe's section of the network.
        dense: The network before pruning, as `plain_network` or `read_network` builds it.
        image: Channels, height and width of its input.
    """
    description = json.dumps(_described(model, dense, image), indent=1) + "\n"
    return {"load_pruned.py": inspect.getsource(load_pruned), "load_pruned.json": description}


def _described(model: Model, dense: nn.Module, image: Sequence[int]) -> dict[str, Any]:
    network = _origin(model)
    needs = ("torch", "safetensors", *_NEEDS.get(network["origin"], ()))
    return {
        "version": load_pruned.VERSION,
        "written_by": f"edcompress {version('edcompress')} with Python {platform.python_version()}",
        "needs": {name: version(name) for name in needs},
        "image": list(image),
        "network": network,
        "layers": {name: _layer(layer) for name, layer in replacements(dense)},
    }


def _origin(model: Model) -> dict[str, Any]:
    """Return where the network is from, its name there, and the arguments that build it, as `registry.build` does."""
    if model.object is not None:
        return {"origin": "object", "name": model.object, "arguments": {}}
    if model.arch is None:
        return {"origin": "factory", "name": model.factory, "arguments": {}}
    classes: dict[str, Any] = {"num_classes": model.num_classes}
    if model.arch in CIFAR_RESNETS:
        arguments = {"depth": CIFAR_RESNETS[model.arch], **classes, "in_channels": model.in_channels}
        return {"origin": "edcompress", "name": "CifarResNet", "arguments": arguments}
    if model.arch.startswith(TIMM):
        arguments = {**classes, "in_chans": model.in_channels}
        return {"origin": "timm", "name": model.arch.removeprefix(TIMM), "arguments": arguments}
    return {"origin": "torchvision", "name": model.arch, "arguments": classes | EXTRA_ARGUMENTS.get(model.arch, {})}


def _layer(layer: nn.Module) -> dict[str, Any]:
    """Return the kind of a replacement and, of a convolution, the arguments that build it."""
    kind = {"kind": type(layer).__name__}
    if not isinstance(layer, nn.Conv2d):
        return kind
    return kind | {name: getattr(layer, name) for name in _CONVOLUTION} | {"bias": layer.bias is not None}
