"""A network from the user's own code: `package.module:callable`, importable from the working directory.

An error in that code is the user's to fix, and is reported with its original text and traceback.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import edcompress
from edcompress.core.errors import NetworkError
from edcompress.core.plain_text import did_you_mean
from edcompress.networks.modes import differentiable, evaluating
from edcompress.networks.torch_private import COMPILED

NOT_USER_CODE = (*(f"{folder}{os.sep}" for package in (edcompress, torch) for folder in package.__path__), "<frozen ")
"""The start of the paths of frames outside the user's code: ours, torch's and the import system's."""

MOST_FRAMES = 20
"""Frames of a traceback that are shown."""

SAME = 1e-4
"""The largest difference between logits of one network and its copy, relative to their largest magnitude."""

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)

QUANTISED = re.compile(
    r"torch\.ao\.nn\.(intrinsic\.)?(qat|quantized)\b|torch\.ao\.quantization\.(fake_quantize|observer)\b|torchao\."
)
"""Modules that define the layers of networks prepared for quantisation or converted; fused float layers are defined elsewhere."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn any error of the block, even sys.exit, into a NetworkError with `what` and the user's part of the traceback; Ctrl-C passes."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NetworkError(f"{what}: {_text(error)}{_user_traceback(error)}") from error


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Put the working directory first on `sys.path` inside the block, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


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
    if not trust_code:
        raise NetworkError(f"model.factory: {spec} runs your own code; add --trust-code to allow it")
    with importable_working_directory():
        factory = _find(spec)
        _require_no_arguments(spec, factory)
        with users_code(f"model.factory: {spec}() failed in your code"):
            network = factory()
    if not isinstance(network, nn.Module):
        raise NetworkError(f"model.factory: {spec}() must return a torch.nn.Module, it returned {_kind(network)}")
    if isinstance(network, WRAPPERS) or hasattr(network, COMPILED):
        raise NetworkError(
            f"model.factory: {spec}() returned a {type(network).__name__} around the network; return the network itself "
            "(for torch.compile set the recipe's `compile`; for several GPUs see docs/scale.md)"
        )
    if prepared := _prepared(network):
        name, kind = prepared
        raise NetworkError(
            f"model.factory: {spec}() returned a network that is prepared for quantisation ({name} is a {kind}); prune before that: "
            "return the network without the preparation, and prepare what edcompress.load returns"
        )
    return network


def require_repeatable(network: nn.Module, spec: str, images: Tensor) -> None:
    """Raise NetworkError where a copy of the network gives different logits for images [N, C, H, W], on which all proofs rely."""
    with users_code(f"model.factory: a copy of the network of {spec} fails"), torch.no_grad(), evaluating(network):
        again = copy.deepcopy(network)
        one, other = network(images), again(images)
    if (one - other).abs().max() > SAME * one.abs().max():
        raise NetworkError(
            f"model.factory: {spec}: in eval mode the network and a copy of it give different logits for the same images, so that nothing "
            "can be proved about it; its forward draws random numbers (F.dropout without training=self.training), changes its images in "
            "place, or reads what a hook has stored in another copy"
        )


def require_trainable(network: nn.Module, spec: str, images: Tensor, *, in_part: bool) -> None:
    """Check that the network can be trained.

    Args:
        network: The network, which stays unchanged.
        spec: Its factory, for messages.
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
        with users_code(f"model.factory: {spec}: the network fails in train mode"):
            logits = copied(images)
        if not isinstance(logits, Tensor):
            raise NetworkError(
                f"model.factory: {spec}: in train mode the network gives a {type(logits).__name__}, not one tensor of logits; "
                "let the factory turn auxiliary heads off"
            )
        for layer in copied.modules():
            layer.register_forward_pre_hook(lambda layer, _: again.append(layer))
        with users_code(f"model.factory: {spec}: the backward pass of the network fails"):
            logits.sum().backward()  # type: ignore[no-untyped-call]
    if again and in_part:
        raise NetworkError(
            f"model.factory: {spec}: the backward pass runs layers again (torch.utils.checkpoint), with all their channels, while the "
            "search trains a part of them; let the factory turn that off"
        )


def _prepared(network: nn.Module) -> tuple[str, str] | None:
    """Return the name and class of a layer that observes, simulates or computes quantised values; None where there is none."""
    for name, layer in network.named_modules():
        if any(QUANTISED.match(kind.__module__) for kind in type(layer).__mro__):
            return name, type(layer).__name__
    return None


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute.isidentifier():
        raise NetworkError(f"model.factory: write package.module:callable (got {spec!r})")
    module = _import(spec, module_name)
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, dir(module), 3)
        raise NetworkError(f"model.factory: {module_name} has no {attribute!r}{hint}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise NetworkError(f"model.factory: {spec} is {_kind(factory)}, not a function or class to call")
    found: Callable[..., Any] = factory
    return found


def _import(spec: str, module_name: str) -> Any:
    with users_code(f"model.factory: importing {module_name} failed in your code"):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            absent, cause = error.name, error
    raise NetworkError(
        f"model.factory: {spec}: there is no module {absent!r} in the working directory {Path.cwd()} "
        "nor among the installed packages"
    ) from cause


def _require_no_arguments(spec: str, factory: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a callable written in C has no signature; calling it will show
        return
    try:
        signature.bind()
    except TypeError as error:
        raise NetworkError(
            f"model.factory: {spec} is called without arguments, but {spec.partition(':')[2]}{signature} needs some "
            f"({error}); point to a function that takes none"
        ) from error


def _text(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _user_traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it, on a new line, of the last frames of the user's code; "" where there are none."""
    shown = traceback.TracebackException.from_exception(error)
    user_frames = [frame for frame in shown.stack if not frame.filename.startswith(NOT_USER_CODE)]
    if not user_frames and not isinstance(error, SyntaxError):
        return ""
    shown.stack = traceback.StackSummary.from_list(user_frames[-MOST_FRAMES:])
    return "\n" + "".join(shown.format(chain=False)).rstrip()


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"
