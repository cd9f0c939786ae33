"""A network from the user's own code: `package.module:callable`, importable from the working directory, or an object in memory.

An error in that code is the user's to fix, and is reported with its original text and traceback.
"""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.core.user_code import (
    OF_A_PROGRAM,
    Trust,
    find_callable,
    importable_working_directory,
    kind_of,
    require_no_arguments,
    users_code,
)
from edcompress.networks.modes import differentiable, evaluating
from edcompress.networks.outputs import joined, named_outputs
from edcompress.networks.torch_private import COMPILED

KEY, OBJECT = "model.factory", "model.object"

SAME = 1e-4
"""The largest difference between logits of one network and its copy, relative to their largest magnitude."""

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)

QUANTISED = re.compile(
    r"torch\.ao\.nn\.(intrinsic\.)?(qat|quantized)\b|torch\.ao\.quantization\.(fake_quantize|observer)\b|torchao\."
)
"""Modules that define the layers of networks prepared for quantisation or converted; fused float layers are defined elsewhere."""


def call_factory(spec: str, *, trust_code: bool) -> nn.Module:
    """Call the user's factory.

    Args:
        spec: The factory as package.module:callable.
        trust_code: Whether the user allowed their code to run.

    Returns:
        The network that it returns.

    Raises:
        NetworkError: The code is not trusted or fails, or it does not return a network that can be pruned.
    """
    factory = find_callable(KEY, spec, NetworkError, trust_code=trust_code)
    require_no_arguments(KEY, spec, factory, NetworkError)
    with importable_working_directory(), users_code(f"{KEY}: {spec}() failed in your code", NetworkError):
        network = factory()
    if not isinstance(network, nn.Module):
        raise NetworkError(f"model.factory: {spec}() must return a torch.nn.Module, it returned {kind_of(network)}")
    _require_bare(network, f"model.factory: {spec}() returned")
    return network


def copy_of_object(name: str, trust: Trust) -> nn.Module:
    """Return a copy, on the CPU in eval mode, of the network that a program has in memory, which stays as it is.

    Its parameters are trained in the copy, unless all are frozen.

    Raises:
        NetworkError: There is none here, it cannot be copied, or it cannot be pruned.
    """
    given = trust.objects.get(OBJECT)
    if not isinstance(given, nn.Module):
        raise NetworkError(f"{OBJECT}: {name} {OF_A_PROGRAM}")
    _require_bare(given, f"{OBJECT}: what is given is")
    with users_code(f"{OBJECT}: a copy of {name} (copy.deepcopy) fails", NetworkError):
        copied = copy.deepcopy(given).to("cpu").eval()
    if any(parameter.requires_grad for parameter in copied.parameters()):
        copied.requires_grad_(True)
    return copied


def _require_bare(network: nn.Module, found: str) -> None:
    """Raise NetworkError for a network inside a wrapper, or prepared for quantisation; `found` begins the message."""
    if isinstance(network, WRAPPERS) or hasattr(network, COMPILED):
        raise NetworkError(
            f"{found} a {type(network).__name__} around the network; give the network itself (its `module` or `_orig_mod`; for "
            "torch.compile set the recipe's `compile`; for several GPUs see docs/scale.md)"
        )
    if prepared := _prepared(network):
        name, kind = prepared
        raise NetworkError(
            f"{found} a network that is prepared for quantisation ({name} is a {kind}); prune before that: give the network without the "
            "preparation, and prepare what edcompress.load returns"
        )


def require_repeatable(network: nn.Module, spec: str, images: Tensor) -> None:
    """Raise NetworkError where a copy of the network gives different logits for images [N, C, H, W], on which all proofs rely."""
    with (
        users_code(f"{spec}: a copy of the network fails", NetworkError),
        torch.no_grad(),
        evaluating(network),
    ):
        again = copy.deepcopy(network)
        one, other = joined(network(images)), joined(again(images))
    if (one - other).abs().max() > SAME * one.abs().max():
        raise NetworkError(
            f"{spec}: in eval mode the network and a copy of it give different logits for the same images, so that nothing "
            "can be proved about it; its forward draws random numbers (F.dropout without training=self.training), changes its images in "
            "place, or reads what a hook has stored in another copy"
        )


def require_trainable(network: nn.Module, spec: str, images: Tensor, *, in_part: bool) -> None:
    """Check that the network can be trained.

    Args:
        network: The network, which stays unchanged.
        spec: What messages call it.
        images: Example images [N, C, H, W].
        in_part: Whether the search will train a part of the channels.

    Raises:
        NetworkError: It gives no logits in train mode, or its backward pass runs layers again and it is trained in part.
    """
    copied = copy.deepcopy(network).train()
    again: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]), differentiable(copied):
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in copied.modules()):  # which trains on GPUs alone
            return
        with users_code(f"{spec}: the network fails in train mode", NetworkError):
            output = copied(images)
        if not named_outputs(output):
            raise NetworkError(
                f"{spec}: in train mode the network gives a {type(output).__name__} without a tensor of logits"
            )
        for layer in copied.modules():
            layer.register_forward_pre_hook(lambda layer, _: again.append(layer))
        with users_code(f"{spec}: the backward pass of the network fails", NetworkError):
            joined(output).sum().backward()  # type: ignore[no-untyped-call]
    if again and in_part:
        raise NetworkError(
            f"{spec}: the backward pass runs layers again (torch.utils.checkpoint), with all their channels, while the "
            "search trains a part of them; turn that off"
        )


def _prepared(network: nn.Module) -> tuple[str, str] | None:
    """Return the name and class of a layer that observes, simulates or computes quantised values; None where there is none."""
    for name, layer in network.named_modules():
        if any(QUANTISED.match(kind.__module__) for kind in type(layer).__mro__):
            return name, type(layer).__name__
    return None
