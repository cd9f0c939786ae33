"""Networks without values: built on the meta device in a fraction of a second, for their names and shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edcompress.core.errors import NetworkError

_RANDOM = (torch.Tensor.normal_, torch.Tensor.uniform_)


class _NoValues(TorchFunctionMode):
    """Draw no random values for tensors that have none, which would take most of the time."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _EmptyOnMeta(TorchFunctionMode):
    """Create tensors on the meta device where nobody reads their values before they are initialised.

    Some networks compute their widths with small tensors, which torch's own context of the meta device would leave without values.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def outline(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that `build` builds, on the meta device, or with some small tensors on the CPU."""
    try:
        with torch.device("meta"), _NoValues():
            return build()
    except (RuntimeError, NetworkError):  # it reads the values of a tensor
        with _EmptyOnMeta(), _NoValues():
            return build()
