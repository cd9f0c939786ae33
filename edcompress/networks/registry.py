"""Networks by name: from a recipe's `model` section to a `torch.nn.Module` with random weights."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from edcompress.core.errors import NetworkError
from edcompress.core.plain_text import did_you_mean
from edcompress.core.recipe.model import Model
from edcompress.core.user_code import NO_TRUST, Trust
from edcompress.networks.attention import with_free_heads
from edcompress.networks.load_pruned import CifarResNet
from edcompress.networks.replacements import as_replacement
from edcompress.networks.user_factory import call_factory, copy_of_object

CIFAR_RESNETS = {f"resnet{depth}": depth for depth in (8, 20, 32, 44, 56, 110)}
"""Depth by name."""

TIMM = "timm:"
WITH_CIFAR_STEM = "torchvision's resnet, resnext, wide_resnet and densenet, and the CIFAR resnet8 ... resnet110"
STEMS = {"resnet": ("conv1", "maxpool"), "densenet": ("features.conv0", "features.pool0")}
"""The first convolution and the max-pooling, by torchvision's module."""

EXTRA_ARGUMENTS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
"""Weights are loaded or trained afterwards, but both networks warn unless `init_weights` is given."""


def architectures() -> list[str]:
    """Return every name that `model.arch` takes, sorted, other than `timm:NAME`."""
    return sorted([*CIFAR_RESNETS, *torchvision_names()])


def build(model: Model, *, trust: Trust = NO_TRUST) -> nn.Module:
    """Build the network of a recipe, in train mode, randomly initialised.

    Args:
        model: The recipe's model section.
        trust: What of the user's code may run: `model.factory`, or the object in memory of `model.object`.

    Raises:
        NetworkError: The network is unknown, cannot be built, or its factory is not trusted.
    """
    require_known(model)
    if model.factory is not None:
        return call_factory(model.factory, trust_code=trust.code)
    if model.object is not None:
        return copy_of_object(model.object, trust)
    assert model.arch is not None
    if model.arch in CIFAR_RESNETS:
        return CifarResNet(CIFAR_RESNETS[model.arch], model.num_classes, model.in_channels)
    if model.arch.startswith(TIMM):
        return _from_timm(model.arch.removeprefix(TIMM), model)
    return _from_torchvision(model.arch, model)


def require_known(model: Model) -> None:
    """Raise NetworkError for an unknown `model.arch`, or one without the stem of `model.stem`; build and import nothing."""
    arch = model.arch or ""
    if arch.startswith(TIMM):
        _require_in_timm(arch.removeprefix(TIMM))
    elif model.arch is not None and arch not in architectures():
        raise NetworkError(
            f"model.arch: there is no {arch!r}{did_you_mean(arch, architectures(), 3)} "
            f"(write timm's networks as {TIMM}NAME, and torchvision's classifiers by their own names)"
        )
    has_cifar_stem = arch in CIFAR_RESNETS or (arch in torchvision_names() and family(arch) in STEMS)
    if model.stem == "cifar" and not has_cifar_stem:
        raise NetworkError(f"model.stem: cifar exists for {WITH_CIFAR_STEM}, not for {model.name}")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers, sorted."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _from_torchvision(name: str, model: Model) -> nn.Module:
    extra = EXTRA_ARGUMENTS.get(name, {})
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=model.num_classes, **extra)
    with_free_heads(network)
    if model.in_channels != 3:
        replace_input(network, model.in_channels)
    if model.stem == "cifar":
        replace_stem(network, *STEMS[family(name)])
    return network


def family(name: str) -> str:
    """Return the name of the module of torchvision.models that builds this network."""
    module: str = torchvision.models.get_model_builder(name).__module__
    return module.rpartition(".")[2]


def replace_input(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution of RGB images by one that takes `in_channels`."""
    name, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    network.set_submodule(name, _conv_like(conv, in_channels=in_channels))


def replace_stem(network: nn.Module, conv: str, pool: str) -> None:
    """Replace 7x7 stride 2 by 3x3 stride 1, and remove the max-pooling, for images of about 32x32 (He et al., 2015, 4.2)."""
    old = network.get_submodule(conv)
    assert isinstance(old, nn.Conv2d)
    network.set_submodule(conv, _conv_like(old, kernel_size=3, stride=1, padding=1))
    network.set_submodule(pool, as_replacement(nn.Identity()))


def _conv_like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    keep: dict[str, Any] = {"in_channels": conv.in_channels, "out_channels": conv.out_channels}
    keep |= {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    new = nn.Conv2d(**(keep | changes), bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return as_replacement(new)


def _require_in_timm(name: str) -> None:
    try:
        import timm
    except ImportError as error:
        raise NetworkError(
            f"model.arch: {TIMM}{name} needs timm, which is not installed: pip install 'edcompress[timm]'"
        ) from error
    if not timm.is_model(name):
        known = [TIMM + model for model in timm.list_models()]
        raise NetworkError(f"model.arch: timm {timm.__version__} has no {name!r}{did_you_mean(TIMM + name, known, 3)}")


def _from_timm(name: str, model: Model) -> nn.Module:
    import timm

    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=model.num_classes, in_chans=model.in_channels
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise NetworkError(
            f"model.arch: timm cannot build {name} with num_classes={model.num_classes}, "
            f"in_chans={model.in_channels}: {type(error).__name__}: {error}"
        ) from error
    return network
